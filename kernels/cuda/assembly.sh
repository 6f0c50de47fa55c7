#!/bin/sh
# What the compiled kernels are made of, one line for each kernel and
# architecture: registers, bytes of stack and of local memory, loads and stores
# of local memory, and how often each instruction that moves tiles or multiplies
# matrices is there. `kernels.assembly` is this program's output; CUOBJDUMP names
# the disassembler.
set -eu
cd "$(dirname "$0")"
image=${1:-kernels.fatbin}
"$CUOBJDUMP" -res-usage "$image" 2>&1 | awk '
    /^arch = / { arch = $3 }
    /^ Function / { name = $2; sub(/:$/, "", name) }
    /REG:/ {
        for (i = 1; i <= NF; i++) { split($i, part, ":"); value[part[1]] = part[2] }
        print "usage", arch, name, value["REG"], value["STACK"], value["LOCAL"]
    }' >"${TMPDIR:-/tmp}/kernels.usage.$$"
"$CUOBJDUMP" -sass "$image" | awk '
    BEGIN { count = split("LDG.64 STG.64 LDG.128 STG.128 LDGSTS LDSM HMMA UTMALDG MULTICAST SYNCS HGMMA USETMAXREG", wanted, " ") }
    FNR == NR { registers[$2 " " $3] = $4; stack[$2 " " $3] = $5; local[$2 " " $3] = $6; next }
    /^arch = / { arch = $3 }
    /Function : / { at = arch " " $3; list[++kernels] = at }
    match($0, /^ +\/\*[0-9a-f]+\*\/ +/) {
        text = substr($0, RLENGTH + 1)
        sub(/^@!?[A-Z0-9]+ +/, "", text)
        split(text, part, /[ .;]/)
        seen[at " " part[1]]++
        if (text ~ /^UTMALDG[.A-Z0-9]*\.MULTICAST/) seen[at " MULTICAST"]++
        if (text ~ /^(LDG|STG)[.A-Z0-9]*\.64/) seen[at " " part[1] ".64"]++
        if (text ~ /^(LDG|STG)[.A-Z0-9]*\.128/) seen[at " " part[1] ".128"]++
    }
    END {
        for (i = 1; i <= kernels; i++) {
            at = list[i]
            line = at " registers=" registers[at] " stack=" stack[at] " local=" local[at]
            line = line " LDL=" seen[at " LDL"] + 0 " STL=" seen[at " STL"] + 0
            for (j = 1; j <= count; j++) if (seen[at " " wanted[j]]) line = line " " wanted[j] "=" seen[at " " wanted[j]]
            print line
        }
    }' "${TMPDIR:-/tmp}/kernels.usage.$$" - | LC_ALL=C sort
rm -f "${TMPDIR:-/tmp}/kernels.usage.$$"
