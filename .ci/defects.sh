#!/usr/bin/env bash
# Whether the tests can fail: each patch in .ci/defects plants one defect in a scratch copy of the tree, and the command that the patch names has
# to fail there. The product's own code has no hook for it. Needs the Rust toolchain and git.
#
#   .ci/defects.sh [NAME...]    for instance `.ci/defects.sh wheel_early`; all of them if none is named
set -euo pipefail
cd "$(dirname "$0")/.."

target=$(realpath -m "${CARGO_TARGET_DIR:-target}")/defects
export CARGO_TARGET_DIR=$target/build
export CARGO_PROFILE_DEV_DEBUG=0
export RUST_BACKTRACE=0
# A defect may hang.
limit_s=60

main() {
    local names=("$@") name failed=0
    ((${#names[@]})) || mapfile -t names < <(cd .ci/defects && ls -- *.patch | sed 's/\.patch$//')
    copy_tree
    for name in "${names[@]}"; do
        plant_and_test "$name" || failed=1
    done
    return "$failed"
}

# Copies what git knows of, changed or not. Times are kept, so that only what a patch touches is built again.
copy_tree() {
    rm -rf "$target/tree"
    mkdir -p "$target/tree"
    git ls-files -z --cached --others --exclude-standard | while IFS= read -r -d '' path; do
        [[ ! -e $path ]] || printf '%s\0' "$path"
    done | xargs -0 cp --parents --preserve=timestamps -t "$target/tree"
}

# Prints a line, and fails if the defect goes unnoticed or the patch does not apply any more.
plant_and_test() {
    local name=$1 patch=$PWD/.ci/defects/$1.patch command status=0 log=$target/$1.log
    command=$(sed -n 's/^Test: //p' "$patch")
    if ! apply "$patch"; then
        echo "$name: does not apply any more: write it anew"
        return 1
    fi
    # What does not compile would be caught for the wrong reason.
    if ! (cd "$target/tree" && ${command%% -- *} --no-run >"$log" 2>&1); then
        echo "$name: does not compile: see $log"
        apply "$patch" --reverse
        return 1
    fi
    (cd "$target/tree" && timeout "$limit_s" $command >"$log" 2>&1) || status=$?
    apply "$patch" --reverse
    if ((status == 0)); then
        echo "$name: not noticed by: $command"
        return 1
    fi
    echo "$name: $(verdict "$log" "$status")"
}

# Git must not take the scratch copy for a part of the repository that it lies in.
apply() {
    (cd "$target/tree" && GIT_CEILING_DIRECTORIES=$target git apply -C1 --recount "${@:2}" "$1")
}

verdict() {
    if (($2 == 124)); then
        echo "hangs"
    else
        grep -m1 -oE '^(violation: .*|test .* FAILED)$' "$1" | cut -c1-110 || echo "fails"
    fi
}

main "$@"
