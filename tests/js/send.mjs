// Sends one item of each signal with the SDK of OpenTelemetry for JavaScript, and prints how each export ended.
// usage: node send.mjs grpc|json|proto URL none|gzip [authorization]

import { SeverityNumber } from '@opentelemetry/api-logs';
import { resourceFromAttributes } from '@opentelemetry/resources';
import { LoggerProvider, SimpleLogRecordProcessor } from '@opentelemetry/sdk-logs';
import { MeterProvider, PeriodicExportingMetricReader } from '@opentelemetry/sdk-metrics';
import { BasicTracerProvider, SimpleSpanProcessor } from '@opentelemetry/sdk-trace-base';

const [transport, url, compression, authorization] = process.argv.slice(2);
const packages = { grpc: 'grpc', json: 'http', proto: 'proto' };
const results = { metrics: [], traces: [], logs: [] };

async function exporter(signal, kind, name) {
  const module = await import(`@opentelemetry/exporter-${kind}-otlp-${packages[transport]}`);
  const options = { url: transport === 'grpc' ? url : `${url}/v1/${signal}`, compression, timeoutMillis: 20000 };
  if (authorization && transport === 'grpc') {
    const { Metadata } = await import('@grpc/grpc-js');
    options.metadata = new Metadata();
    options.metadata.set('authorization', authorization);
  } else if (authorization) {
    options.headers = { authorization };
  }
  const made = new module[name](options);
  const send = made.export.bind(made);
  made.export = (items, done) =>
    send(items, (result) => {
      results[signal].push(result.code === 0 ? 'success' : String(result.error));
      done(result);
    });
  return made;
}

const resource = resourceFromAttributes({ 'service.name': 'shop' });

async function metrics() {
  const reader = new PeriodicExportingMetricReader({
    exporter: await exporter('metrics', 'metrics', 'OTLPMetricExporter'),
    exportIntervalMillis: 3600000,
    exportTimeoutMillis: 20000,
  });
  const provider = new MeterProvider({ resource, readers: [reader] });
  const meter = provider.getMeter('app', '1.2');
  meter.createCounter('orders', { unit: '1' }).add(3, { kind: 'new' });
  meter.createGauge('load').record(0.25);
  meter.createHistogram('latency', { unit: 's' }).record(0.5);
  await provider.forceFlush();
  return provider;
}

async function traces() {
  const processor = new SimpleSpanProcessor(await exporter('traces', 'trace', 'OTLPTraceExporter'));
  const provider = new BasicTracerProvider({ resource, spanProcessors: [processor] });
  const span = provider.getTracer('app').startSpan('checkout', { attributes: { total: 12.5, items: 2 ** 40 } });
  span.addEvent('paid');
  span.end();
  await provider.forceFlush();
  return provider;
}

async function logs() {
  const processor = new SimpleLogRecordProcessor({ exporter: await exporter('logs', 'logs', 'OTLPLogExporter') });
  const provider = new LoggerProvider({ resource, processors: [processor] });
  provider.getLogger('app').emit({
    severityNumber: SeverityNumber.WARN,
    body: { text: 'order é placed', bytes: new Uint8Array([0, 254, 255]) },
  });
  await provider.forceFlush();
  return provider;
}

for (const send of [metrics, traces, logs]) {
  try {
    const provider = await send();
    await provider.shutdown();
  } catch (error) {
    if (!results[send.name].length) throw error; // an export that failed is a result
  }
}
console.log(JSON.stringify(results));
