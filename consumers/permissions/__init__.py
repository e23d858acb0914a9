"""The NATS permissions and Postgres grants of each role, and no more: rendered for nats-server and as SQL."""

from consumers.permissions.render import grants_of, render_config
from consumers.permissions.roles import Permission, Rights, Role, RoleContext, rights_of

__all__ = ["Permission", "Rights", "Role", "RoleContext", "grants_of", "render_config", "rights_of"]
