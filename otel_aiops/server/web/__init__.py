"""The page: what the service knows, for people with a browser; drawn here, kept up to date by one small script."""

from otel_aiops.server.web.pages import Pages, wants_page

__all__ = ["Pages", "wants_page"]
