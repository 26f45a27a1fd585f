"""Commands that look after the signing keys."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated

import typer
from rich.table import Table

from veraicon.commands.console import err, out, settings_of, show_json

app = typer.Typer(help="The keys that sign, and those that did.", no_args_is_help=True)

AsJson = Annotated[bool, typer.Option("--json", help="For programs.")]


@app.command("list")
def list_keys(context: typer.Context, as_json: AsJson = False) -> None:
    """List the key that signs and those before it."""
    from veraicon.site_keys import site_keyring

    ring = site_keyring(settings_of(context))
    rows = [{"kid": ring.current.kid, "state": "signs", "made": _text(ring.current.made_at), "stopped": None, "revoked": None}]
    for key in ring.retired:
        revoked = f"{key.reason} since {_text(key.revoked_at)}" if key.revoked_at else None
        state = "revoked" if revoked else "retired"
        rows.append({"kid": key.kid, "state": state, "made": None, "stopped": _text(key.stopped_at), "revoked": revoked})
    if as_json:
        show_json(rows)
        return
    table = Table("key id", "state", "stopped", "revoked", box=None, pad_edge=False)
    for row in rows:
        table.add_row(row["kid"], row["state"], row["stopped"] or "", row["revoked"] or "")
    out.print(table)


@app.command("rotate")
def rotate_key(
    context: typer.Context,
    keep: Annotated[bool, typer.Option("--keep", help="Keep the old private key below keys/kept; else it is deleted.")] = False,
    to: Annotated[
        Path | None, typer.Option(dir_okay=False, help="Write the new key there: for keys from the environment.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Make a new key and retire the present one, which signs the new one's public half into the log."""
    from veraicon.key_changes import rotate
    from veraicon.wiring import open_log

    with open_log(settings_of(context)) as (store, _key, log):
        done = rotate(store, log, keep=keep, to=to)
    if as_json:
        show_json(
            {"old": done.old, "new": done.new, "stopped": _text(done.stopped_at), "leaf": done.leaf, "in_place": done.in_place}
        )
    else:
        out.print(f"{done.new} signs from now on; {done.old} stopped at {_text(done.stopped_at)}; log entry {done.leaf}")
    if done.in_place:
        err.print("running processes take up the new key with their next signature; no restart is needed")
    else:
        err.print(f"nothing can be signed until every process has the key in {to}: hand it over, restart them, delete the file")


@app.command("revoke")
def revoke_key(
    context: typer.Context,
    kid: Annotated[str, typer.Argument(help="Key id of a retired key, or its first characters.", metavar="KID")],
    reason: Annotated[str, typer.Option(help="compromised, superseded or unspecified.")],
    since: Annotated[datetime | None, typer.Option(help="UTC moment from which its signatures do not hold; else now.")] = None,
    as_json: AsJson = False,
) -> None:
    """Revoke a retired key: what it signed from a moment on is refused."""
    from veraicon.key_changes import revoke
    from veraicon.wiring import open_log

    with open_log(settings_of(context)) as (store, key, log):
        moment = since.replace(tzinfo=UTC) if since else None
        revoked = revoke(store, log, key, kid, reason=reason, since=moment)
    if as_json:
        show_json(revoked.to_jwk())
    else:
        out.print(f"{revoked.kid} is revoked since {_text(revoked.revoked_at)}: {revoked.reason}")
    err.print("who verifies offline needs the new key set: veraicon keys export")


@app.command("export")
def export_keys(context: typer.Context) -> None:
    """Print all public keys (JWKS), as /.well-known/jwks.json gives them."""
    from veraicon.site_keys import site_keyring

    show_json(site_keyring(settings_of(context)).public_jwks())


@app.command("client")
def client_keys(context: typer.Context) -> None:
    """Print the public half of [fhir] client_key_file (JWKS), to register with the FHIR server's authorization server."""
    from domain.errors import ConfigurationError
    from fhir_adapter.server.client_keys import ClientKey

    fhir = settings_of(context).fhir
    if not fhir.client_key_file:
        raise ConfigurationError(
            found="no client_key_file in [fhir]",
            allowed="a private key, P-384 or RSA, PEM or JWK",
            action="make one, name it in [fhir] client_key_file, then ask again",
        )
    show_json(ClientKey.load(Path(fhir.client_key_file), fhir.client_key_id).public_jwks())


def _text(moment: datetime | None) -> str | None:
    return moment.isoformat(timespec="seconds").replace("+00:00", "Z") if moment else None
