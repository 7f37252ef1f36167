"""The book served on this machine, and what is said where it cannot be, or cannot be printed."""

import pytest
from imcl_book import cli, site


def test_without_chromium_the_pdf_is_refused_in_one_sentence(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(site, "BROWSERS", ("chromium", str(tmp_path / "Chrome")))
    monkeypatch.setenv("PATH", str(tmp_path))
    assert cli.main(["pdf", str(tmp_path)]) == 2
    assert capsys.readouterr().err == f"{site.NO_BROWSER}\n"


def test_a_port_in_use_is_named(tmp_path, capsys):
    with site.serving(tmp_path) as address:
        assert cli.main(["serve", str(tmp_path), "--port", address.rsplit(":", 1)[1].strip("/")]) == 2
    assert "PORT=8001" in capsys.readouterr().err


@pytest.mark.parametrize("port", ["80000", "-1"])
def test_a_port_that_does_not_exist_is_named(port, tmp_path, capsys):
    assert cli.main(["serve", str(tmp_path), f"--port={port}"]) == 2
    error = capsys.readouterr().err
    assert f"Port {port} " in error and "PORT=8001" in error and error.count("\n") == 1
