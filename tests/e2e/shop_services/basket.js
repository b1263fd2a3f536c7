// Makes a basket: asks the stock (Python) for an article and adds the tax. SIGUSR2 makes it spin, and stop spinning.
const express = require("express");
const pino = require("pino");

const STOCK = process.env.STOCK_URL;
const PORT = Number(process.env.PORT);
const SPIN_MS = 45; // of every 50: the event loop still turns, but whatever waits for it waits long
const log = pino({ level: "info" });
const app = express();

app.get("/basket/:sku", async (request, response) => {
  const sku = request.params.sku;
  try {
    const answer = await fetch(`${STOCK}/stock/${sku}`, { signal: AbortSignal.timeout(4000) });
    if (!answer.ok) throw new Error(`stock answered ${answer.status}`);
    const article = await answer.json();
    log.info({ sku }, `basket of ${sku} made`);
    response.json({ sku, price: Math.round(article.price * 119) / 100 });
  } catch (error) {
    log.error({ sku, err: error }, `no basket for ${sku}`);
    response.status(503).json({ error: "no stock" });
  }
});

let spinning = null;
function spin() {
  const end = performance.now() + SPIN_MS;
  while (performance.now() < end);
}
process.on("SIGUSR2", () => {
  if (spinning) clearInterval(spinning);
  spinning = spinning ? null : setInterval(spin, 50);
});

app.listen(PORT, "127.0.0.1");
