"""What the settings say of our node and of who may call it, and what becomes of it."""

from __future__ import annotations

from pathlib import Path

import pytest

from dicom_node.association.policy import SourcePolicy
from domain.errors import ConfigurationError
from tests.builders_tls import Authority
from veraicon.doctor import examine
from veraicon.sections import DestinationSettings, NodeSettings, SourceSettings
from veraicon.settings import load_settings
from veraicon.wiring import peer_of, policies_of

_PEER = 'name = "a"\nae_title = "A"\n'


@pytest.mark.parametrize(
    ("text", "named"),
    [
        ("[node]\nport = 0\n", "would not listen"),
        ("[node]\ntls_port = 2762\n", "needs tls_certificate and tls_key"),
        ('[node]\ntls_port = 11112\ntls_certificate = "c"\ntls_key = "k"\n', "are the same"),
        ('[node]\ntls_certificate = "c"\n', "belong together"),
        (f'[[sources]]\n{_PEER}host = "scanner.example"\n', "neither an address nor a network"),
        (f'[[sources]]\n{_PEER}host = "10.0.0.7/24"\n', "neither an address nor a network"),
        (f'[[sources]]\n{_PEER}host = "10.0.0.0/24"\nport = 104\n', "one address"),
        ("[node]\nmaximum_pdu = 100\n", "node.maximum_pdu"),
    ],
)
def test_a_node_that_could_not_work_as_configured_is_refused(tmp_path: Path, text: str, named: str) -> None:
    file = tmp_path / "veraicon.toml"
    file.write_text(text, encoding="utf-8")
    with pytest.raises(ConfigurationError, match=named):
        load_settings(file)


def test_sources_of_one_title_may_call_from_the_hosts_of_all_of_them() -> None:
    def source(**options: object) -> SourceSettings:
        return SourceSettings.model_validate({"name": "x", "ae_title": "CT", **options})

    policies = policies_of(
        (
            source(host="10.0.0.7", maximum_associations=2),
            source(host="10.1.0.0/16", maximum_associations=4),
            source(ae_title="MR"),
        )
    )
    assert policies == {"CT": SourcePolicy(("10.0.0.7", "10.1.0.0/16"), maximum_associations=4), "MR": SourcePolicy()}
    assert policies_of((source(host="10.0.0.7"), source(tls=True)))["CT"] == SourcePolicy((), None, True)


def test_peers_with_tls_show_our_certificate_and_others_do_not() -> None:
    node = NodeSettings(tls_port=2762, tls_certificate="c.pem", tls_key="k.pem")
    pacs = DestinationSettings(name="pacs", ae_title="PACS", host="10.0.0.9", port=2762, tls=True, tls_ca="ca.pem")
    tls = peer_of(pacs, node).tls
    assert tls is not None
    assert (tls.ca, tls.certificate, tls.key, tls.check_host) == (Path("ca.pem"), Path("c.pem"), Path("k.pem"), True)
    assert peer_of(pacs.model_copy(update={"tls": False}), node).tls is None


@pytest.mark.requirement("DICOM-TLS-005")
@pytest.mark.parametrize(
    ("days", "ok", "said"), [(200, True, "200 days left"), (5, True, "renew it soon"), (-3, False, "expired")]
)
def test_the_doctor_tells_how_long_the_certificate_lasts(tmp_path: Path, days: int, ok: bool, said: str) -> None:
    ours = Authority(tmp_path / "tls", "site").issue("ours", days=days)
    node = {"tls_port": 2762, "tls_certificate": str(ours.certificate), "tls_key": str(ours.key)}
    checks = examine(load_settings(_empty(tmp_path), node=node))
    (check,) = [check for check in checks if check.name == "DICOM certificate"]
    assert check.ok is ok
    assert said in check.detail


def _empty(folder: Path) -> Path:
    file = folder / "veraicon.toml"
    file.write_text(f'[storage]\nfolder = "{folder / "data"}"\n', encoding="utf-8")
    return file
