"""A Ceph cluster small enough for a test: one monitor, one OSD in memory, one gateway, all on loopback, without systemd.

Debian's packages, started as root. `tcp_nodelay=1`, since the gateway's web server otherwise waits 40 ms in each answer; a
collector that begins at once, since removed objects would otherwise fill the OSD's memory for two hours.
"""

from __future__ import annotations

import atexit
import fcntl
import json
import os
import shutil
import subprocess
import tempfile
import time
import uuid
from functools import lru_cache
from pathlib import Path

from servers import ACCESS_KEY, SECRET_KEY, Missing, Server, _new_folder, free_port, spawn, wait_for_bucket

PROGRAMS = ("ceph", "ceph-mon", "ceph-osd", "monmaptool", "radosgw", "radosgw-admin")
START_LIMIT_S = 15.0
START_TRIES = 3
USERS_LIMIT_S = 180.0
INSTALL = "apt-get install --no-install-recommends radosgw ceph-mon ceph-osd ceph-common"


@lru_cache(maxsize=1)
def gateway() -> Server:
    """The running gateway, one for all processes of a test run; about a dozen seconds to start."""
    missing = [name for name in PROGRAMS if shutil.which(name) is None]
    if missing:
        raise Missing(f"ceph (no {', '.join(missing)}): {INSTALL}")
    if os.geteuid() != 0:
        raise Missing("ceph (its programs want to be started by root)")
    meeting = (
        Path(tempfile.gettempdir()) / f"orchestrator-ceph-run-{os.environ.get('PYTEST_XDIST_TESTRUNUID') or uuid.uuid4().hex}"
    )
    meeting.mkdir(exist_ok=True)
    users = os.open(meeting / "users", os.O_RDWR | os.O_CREAT)
    fcntl.flock(users, fcntl.LOCK_SH)  # until this process ends
    with (meeting / "starting").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        told = meeting / "server.json"
        if not told.exists():
            server = _start_at_last()
            told.write_text(json.dumps({"endpoint": server.endpoint, "failure": server.failure}))
            atexit.register(_wait_for_other_users, users, meeting)  # runs before the programs are killed
        return Server("ceph", **json.loads(told.read_text()))


def _wait_for_other_users(users: int, meeting: Path) -> None:
    deadline = time.monotonic() + USERS_LIMIT_S
    while time.monotonic() < deadline:
        try:
            fcntl.flock(users, fcntl.LOCK_EX | fcntl.LOCK_NB)
            break
        except BlockingIOError:
            time.sleep(0.2)
    shutil.rmtree(meeting, ignore_errors=True)


def _start_at_last() -> Server:
    error: Exception | None = None
    for _ in range(START_TRIES):
        begun: list[subprocess.Popen] = []
        try:
            return _start(_new_folder("ceph"), begun)
        except (RuntimeError, subprocess.TimeoutExpired) as problem:  # an OSD that hangs at its start, about once in ten times
            error = problem
            for process in begun:
                process.kill()
    return Server("ceph", "", failure=str(error))


def _start(folder: Path, begun: list[subprocess.Popen]) -> Server:
    mon_port, port = free_port(), free_port()
    cluster, conf, log = str(uuid.uuid4()), folder / "ceph.conf", folder / "log"
    for name in ("mon", "osd", "run", "rgw"):
        (folder / name).mkdir()
    conf.write_text(_CONF.format(cluster=cluster, folder=folder, mon_port=mon_port, port=port))

    def call(*command: str) -> str:
        done = subprocess.run(command, check=False, capture_output=True, text=True, timeout=30)
        if done.returncode:
            raise RuntimeError(f"{' '.join(command)}: {done.stderr[-2000:]}")
        return done.stdout

    def ceph(*arguments: str) -> str:
        return call("ceph", "--conf", str(conf), "--connect-timeout", "30", *arguments)

    call("monmaptool", "--create", "--addv", "a", f"[v1:127.0.0.1:{mon_port}]", "--fsid", cluster, str(folder / "monmap"))
    call("ceph-mon", "--conf", str(conf), "--mkfs", "--id", "a", "--monmap", str(folder / "monmap"))
    begun += [spawn(["ceph-mon", "--conf", str(conf), "--id", "a", "-f"], log=log)]
    osd = str(uuid.uuid4())
    ceph("osd", "new", osd)
    call("ceph-osd", "--conf", str(conf), "--id", "0", "--mkfs", "--osd-uuid", osd)
    begun += [spawn(["ceph-osd", "--conf", str(conf), "--id", "0", "-f"], log=log)]
    deadline = time.monotonic() + START_LIMIT_S
    while not json.loads(ceph("osd", "stat", "--format", "json"))["num_up_osds"]:
        if time.monotonic() > deadline:
            raise RuntimeError(f"the OSD did not come up:\n{(folder / 'osd.0.log').read_text()[-2000:]}")
        time.sleep(0.2)
    call(
        "radosgw-admin", "--conf", str(conf), "user", "create", "--uid", "test", "--display-name", "test",
        "--access-key", ACCESS_KEY, "--secret-key", SECRET_KEY,
    )  # fmt: skip
    begun += [spawn(["radosgw", "--conf", str(conf), "--name", "client.rgw", "-f"], log=log)]
    server = Server("ceph", f"http://127.0.0.1:{port}")
    wait_for_bucket(server, log)
    return server


_CONF = """
[global]
fsid = {cluster}
mon_host = v1:127.0.0.1:{mon_port}
auth_cluster_required = none
auth_service_required = none
auth_client_required = none
run_dir = {folder}/run
admin_socket =
log_file = {folder}/$name.log
pid_file =
osd_pool_default_size = 1
osd_pool_default_min_size = 1
osd_pool_default_pg_num = 1
osd_pool_default_pgp_num = 1
osd_pool_default_pg_autoscale_mode = off
mon_max_pg_per_osd = 10000
osd_crush_chooseleaf_type = 0
mon_allow_pool_size_one = true
mon_warn_on_pool_no_redundancy = false
ms_bind_msgr2 = false
public_addr = 127.0.0.1
[mon]
mon_data = {folder}/mon
[osd]
osd_data = {folder}/osd
osd_objectstore = memstore
memstore_device_bytes = 8589934592
osd_class_load_list = *
osd_class_default_list = *
osd_check_max_object_name_len_on_startup = false
[client.rgw]
rgw_data = {folder}/rgw
rgw_frontends = beast endpoint=127.0.0.1:{port} tcp_nodelay=1
rgw_gc_obj_min_wait = 1
rgw_gc_processor_period = 5
rgw_gc_processor_max_time = 5
rgw_dynamic_resharding = false
rgw_thread_pool_size = 32
"""
