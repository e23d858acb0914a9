"""What each role may do on the servers, and nothing else: as nats-server reads it, and as grants for Postgres."""

from consumers.permissions.render import grants_of, render_config
from consumers.permissions.roles import Right, Rights, Role, Work, rights_of

__all__ = ["Right", "Rights", "Role", "Work", "grants_of", "render_config", "rights_of"]
