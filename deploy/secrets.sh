#!/bin/sh
# Makes what compose.yaml needs and no image may hold, once: what is there already stays.
set -eu
cd "$(dirname "$0")"
if [ -e secrets ] || [ -e .env ]; then
    echo "deploy/secrets or deploy/.env is there already: nothing was made" >&2
    exit 1
fi

random() { od -An -v -tx1 -N32 /dev/urandom | tr -d ' \n'; }
digest() { printf %s "$1" | sha256sum | cut -d' ' -f1; }

umask 077
mkdir secrets
router="$(random)" operator="$(random)"
printf '{"keys": [{"id": "k1", "secret": "%s"}]}\n' "$(random)" >secrets/keys.json
sed -n -e "s/BANDITROUTE_SHA256/$(digest "$router")/" -e "s/OPERATOR_SHA256/$(digest "$operator")/" -e '/^user /p' \
    redis.acl >secrets/users.acl
printf '%s\n' "$operator" >secrets/operator_password
# Compose mounts these files as they are, and containers have users of their own; the folder keeps others on this host out.
chmod 0444 secrets/keys.json secrets/users.acl
printf 'BANDITROUTE_STORE=redis://banditroute:%s@redis:6379/0\n' "$router" >.env
echo "made deploy/secrets and deploy/.env: keep keys.json safe, open decisions cannot take feedback without it"
