#!/usr/bin/env bash
# The main job, end to end: encrypted data, a measured micro VM, keys only after verification, a wiped machine with a receipt.
# Then what an attacker gets. Needs what `make demo` builds. KEEP=1 leaves platform and node running.
set -euo pipefail
cd "$(dirname "$0")/.."

root=$PWD
session=$root/target/demo/session
export PATH=$root/target/debug:$PATH
export CASEMATE_DEV_STATE=$root/target/demo/state
export CASEMATE_CONTEXT=$CASEMATE_DEV_STATE/context.json
started=$SECONDS

if [[ -t 1 ]]; then bold=$'\e[1m' dim=$'\e[2m' plain=$'\e[0m'; else bold='' dim='' plain=''; fi
title() { printf '\n%s%s%s\n\n' "$bold" "$1" "$plain"; }
say() { printf '%s\n' "$*"; }
show() { printf '%s$ %s%s\n' "$dim" "$*" "$plain"; }
run() {
    show "$@"
    "$@"
}

die() {
    printf '\nerror: %s\nhint: the logs are in %s\n' "$1" "$CASEMATE_DEV_STATE/logs" >&2
    exit 1
}

stop() { casemate --quiet dev down "$@" >/dev/null 2>&1 || true; }

cleanup() {
    local status=$?
    trap - EXIT INT TERM
    if [[ ${KEEP:-} == 1 && $status == 0 ]]; then exit 0; fi
    stop
    exit "$status"
}
trap cleanup EXIT
trap 'exit 130' INT TERM

the_run=(casemate run --isolation microvm --image oci:./demo.oci --asset data=./data.enc --key data=./data.key --output ./out)

# A copy of the guest OS in which one byte of a part is another. The attacker owns the node: the node's own description agrees.
# tampered PART OFFSET BYTE
tampered() {
    local part=$1 offset=$2 byte=$3 copy=$session/tampered-$1 before after
    mkdir "$copy"
    cp --reflink=auto "$root"/target/guest-os/* "$copy"
    before=$(sha256sum "$copy/$part" | cut -d' ' -f1)
    printf '%b' "$byte" | dd of="$copy/$part" bs=1 seek="$offset" conv=notrunc status=none
    after=$(sha256sum "$copy/$part" | cut -d' ' -f1)
    [[ $before != "$after" ]] || die "the byte at $offset of $part already was that"
    sed -i "s/$before/$after/" "$copy/guest-os.json"
    printf '%s' "$copy"
}

# The same run on a node with a changed guest OS: it must be refused, by the name of the check, with no result.
# attack FOLDER CHECK
attack() {
    local status=0
    run "${up[@]}" --guest-os "$1" || die "platform and node did not start with the changed guest OS"
    say
    rm -rf out
    show "${the_run[@]}"
    "${the_run[@]}" 2>&1 | tee refusal.log || status=$?
    [[ $status == 2 ]] || die "the run on a changed guest OS ended with exit status $status, and not with 2 (refused)"
    grep -q "$2" refusal.log || die "the refusal does not name the check $2"
    [[ -z $(ls -A out 2>/dev/null) ]] || die "a refused run left a result"
    printf '\n%sRefused by the check %s, exit status %s. The key did not leave this machine.%s\n' "$bold" "$2" "$status" "$plain"
    stop
}

# STORE=postgres: three servers on a PostgreSQL instead of one with a database of its own.
up=(casemate dev up)
[[ ${STORE:-} == postgres ]] && up+=(--replicas 3)

command -v casemate >/dev/null || die "casemate is not built (run \`make demo\`)"
stop --purge
rm -rf "$session"
mkdir -p "$session"
cd "$session"
cp --reflink=auto ../demo.oci ../data.csv .

title "1. A platform and a node on this machine"
run "${up[@]}"

title "2. The tenant encrypts the data set under a key of its own"
run casemate asset encrypt --key data.key data.csv data.enc
say "data.csv: $(wc -l <data.csv) lines; data.enc: $(wc -c <data.enc) bytes of ciphertext; data.key stays here (mode $(stat -c %a data.key))."

title "3. The tenant runs its program on it, in a machine of somebody else"
run "${the_run[@]}"
say
run cat out/report.txt

title "4. An attacker owns the node and patches one byte of the guest's kernel"
stop
offset=$(grep -abo -m1 'Linux version ' "$root/target/guest-os/vmlinux" | head -n1 | cut -d: -f1)
[[ -n $offset ]] || die "the kernel's version text is not where it was expected"
say "The kernel still boots; only its version text differs. The evidence tells:"
attack "$(tampered vmlinux "$offset" l)" guest.kernel

title "5. The attacker changes one byte of the guest's root file system instead"
say "The measured command line carries the root hash; the guest's own kernel finds that the block does not fit it:"
attack "$(tampered root.img 512 '\x5a')" guest.root-verity

title "Done in $((SECONDS - started)) s"
if [[ ${KEEP:-} == 1 ]]; then
    "${up[@]}"
    cat <<TEXT

Platform and node are running. In another shell:
  export PATH=$root/target/debug:\$PATH CASEMATE_DEV_STATE=$CASEMATE_DEV_STATE CASEMATE_CONTEXT=$CASEMATE_CONTEXT
  cd $session && casemate ps --all
  casemate dev down
TEXT
else
    say "Nothing is left running. KEEP=1 make demo keeps platform and node up to play with."
fi
cat <<TEXT

Where to go next
  README.md            a first session by hand, and what this does not protect from
  ARCHITECTURE.md      how it works: a key's way from tenant to guest, an instance's life
  docs/checks.md       every check that can refuse, and what its failure means
  examples/demo        the program that ran, and what its image is made of
  target/demo/session  its files: out/model.json is the trained model
TEXT
