"""Access: who asks, by which token, password, certificate or issuer, and what each role may do."""

from otel_aiops.server.access.access import Access, AccessConfig
from otel_aiops.server.access.gate import Gate
from otel_aiops.server.access.roles import Identity, Role

__all__ = ["Access", "AccessConfig", "Gate", "Identity", "Role"]
