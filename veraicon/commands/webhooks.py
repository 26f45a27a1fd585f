"""Commands that look after webhooks."""

from __future__ import annotations

import base64
import secrets
import uuid
from typing import Annotated

import typer

from veraicon.commands.console import err, settings_of, show_json

app = typer.Typer(help="Webhooks: who is told what becomes of orders, and who may send some.", no_args_is_help=True)


@app.command("test")
def send_ping(
    context: typer.Context,
    name: Annotated[str, typer.Argument(help="As [[webhooks]] names it.", metavar="NAME")],
    as_json: Annotated[bool, typer.Option("--json", help="For programs.")] = False,
) -> None:
    """Send a signed ping to a receiver, and say whether it took it."""
    from domain.errors import ConfigurationError
    from veraicon.orders.webhooks import WebhookChannel

    hooks = settings_of(context).webhooks
    found = next((one for one in hooks if one.name == name), None)
    if found is None:
        raise ConfigurationError(
            found="a webhook that is not in the settings",
            allowed=", ".join(one.name for one in hooks) or "none is configured",
            action="correct the name, or add it under [[webhooks]]",
        )
    identity = f"ping-{uuid.uuid4()}"
    WebhookChannel(found).ping(identity)
    if as_json:
        show_json({"webhook": name, "id": identity, "taken": True})
    else:
        err.print(f"{name} took a signed ping")


@app.command("secret")
def secret() -> None:
    """Print a new secret of 32 random bytes, for [[webhooks]] or [[webhook_senders]]."""
    typer.echo("whsec_" + base64.b64encode(secrets.token_bytes(32)).decode())
