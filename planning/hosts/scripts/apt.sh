# shellcheck shell=bash
# Packages of a host: patient with locks, repaired when cut off, pinned, held, explained when they fail.

# Of apt's last runs; in memory, since a full disk must not keep the reason of a failure from being told.
APT_LOG=/run/inference-stack-apt.log
APT_FAILED=/run/inference-stack-apt-failed.log

patient() { # run a command of apt or dpkg; wait for locks that others hold, repair what was interrupted, explain failures
  local deadline=$((SECONDS + APT_LOCK_S)) told="" repaired="" holder
  until "$@" >"$APT_LOG" 2>&1; do
    if grep -qE 'Could not get lock|Unable to (acquire|lock)|was locked by another process' "$APT_LOG"; then
      holder=$(sed -nE 's/.*(held by process|process with pid) ([0-9]+).*/\2/p' "$APT_LOG" | head -n 1)
      if ((SECONDS >= deadline)); then
        fail "apt has been in use for $APT_LOCK_S s" "$(process "$holder") holds its lock" \
          "let it end, or stop it, and run \`up\` again"
      fi
      [[ $told ]] || echo "waiting for apt: $(process "$holder") holds its lock"
      told=yes
      sleep 2
    elif grep -q 'dpkg was interrupted' "$APT_LOG" && [[ ! $repaired ]]; then
      repaired=yes
      repair_dpkg
    else
      cp "$APT_LOG" "$APT_FAILED"
      return 1
    fi
  done
}

process() { # pid -> words
  [[ -n ${1-} ]] || { echo "another process" && return; }
  echo "process $1 ($(tr '\0' ' ' <"/proc/$1/cmdline" 2>/dev/null | cut -c -60 | sed 's/ *$//' || echo gone))"
}

apt_get() { # apt-get without questions; fails with one line
  try_apt_get "$@" || explain "apt-get $1"
}

try_apt_get() { # the same, but false where it fails, with the output in $APT_FAILED
  patient apt-get -q -y \
    -o Dpkg::Options::=--force-confdef -o Dpkg::Options::=--force-confold \
    -o Acquire::Retries=1 -o Acquire::http::Timeout=20 -o Acquire::https::Timeout=20 \
    -o APT::Update::Error-Mode=any -o Dpkg::Use-Pty=0 "$@"
}

explain() { # the one line that says why the last command of apt failed
  local log=$APT_FAILED line
  if line=$(grep -m 1 -E 'No space left on device|enough free space' "$log"); then
    fail "the disk is full" "${line#E: }" "make room and run \`up\` again; it goes on from there"
  elif line=$(grep -m 1 -E 'NO_PUBKEY|EXPKEYSIG|BADSIG|is not signed|not live until|expired' "$log"); then
    fail "an apt repository can't be trusted" "${line#[EW]: }" "check its key and this host's clock"
  elif line=$(grep -m 1 -E 'Conflicting values set for option' "$log"); then
    fail "this host has an apt entry of its own for the same repository" "${line#E: }" \
      "remove that entry: $(own_entries "$line")"
  elif line=$(grep -m 1 -E '^([EW]:|Err:).*(Failed to fetch|Could not (resolve|connect)|Unable to connect|[Tt]imed? ?out|does not have a Release|Temporary failure|[Rr]efused)' "$log"); then
    fail "a package mirror can't be reached" "${line#[EW]: }" \
      "check the network, or name a mirror under \`mirrors:\`, and run \`up\` again; nothing was changed by this"
  fi
  line=$(grep -E '^(E: |dpkg: error)|trying to overwrite|^ [a-z0-9.+-]+ : [A-Z]' "$log" | grep -v 'additional context' | head -n 4 | tr -s '\n' ' ')
  fail "$1 failed" "${line:-$(tail -n 3 "$log" | tr '\n' ' ')}" "see $log on the host"
}

own_entries() { # files below /etc/apt that name the repository of apt's message $1
  local url
  url=$(sed -nE 's/.*regarding source ([^ ]+).*/\1/p' <<<"$1")
  grep -rlF "${url%/}" /etc/apt/sources.list /etc/apt/sources.list.d 2>/dev/null | grep -v /inference-stack- | tr '\n' ' '
}

repair_dpkg() { # finish what was cut off in the middle of an installation
  if [[ $(dpkg --audit) || -n $(ls /var/lib/dpkg/updates 2>/dev/null) ]]; then
    mkdir -p "$STATE"
    patient dpkg --force-confdef --force-confold --configure -a || true
    [[ -z $(dpkg --audit) ]] || try_apt_get --fix-broken install || true
    [[ -z $(dpkg --audit) ]] || return 1
    say "repaired an interrupted installation (dpkg --configure -a)"
  fi
}

half_installed() { # names of packages
  dpkg-query -W -f '${db:Status-Status} ${Package}\n' | sed -nE 's/^(half|unpacked|triggers)[^ ]* //p'
}

must_repair_dpkg() {
  repair_dpkg || fail "packages are half installed" "$(half_installed | head -n 3 | tr '\n' ' ')" \
    "repair them by hand: \`dpkg --configure -a\`, \`apt-get --fix-broken install\`"
}

installed() { # package -> its version; false where it isn't installed completely
  local found
  found=$(dpkg-query -W -f '${db:Status-Status} ${Version}\n' "$1" 2>/dev/null | grep '^installed ') || return 1
  head -n 1 <<<"${found#installed }"
}

is_build() { # full version $1 is a build of upstream's $2: 5:29.8.2-1~debian.12~bookworm of 29.8.2
  local rest=${1#*:}
  [[ $rest == "$2" || $rest == "$2"[-+~]* ]]
}

build_of() { # package, upstream version -> the full version that apt can get; false where there is none
  local version
  while read -r version; do
    if is_build "$version" "$2"; then
      echo "$version"
      return
    fi
  done < <(apt-cache madison "$1" | cut -d '|' -f 2 | tr -d ' ')
  return 1
}

must_build_of() { # the same in BUILD, so that waiting for apt can be told; looks again after apt-get update, then fails
  local have
  BUILD=$(build_of "$1" "$2") && return
  if [[ ! $UPDATED ]]; then
    apt_get update
    UPDATED=yes
  fi
  BUILD=$(build_of "$1" "$2") && return
  have=$(apt-cache madison "$1" | cut -d '|' -f 2 | tr -d ' ' | head -n 4 | tr '\n' ' ')
  fail "no repository has $1 $2" "apt knows ${have:-none at all}" "choose a version set or \`packages:\` with a build for $OS_ID $OS_VERSION"
}

ensure() { # install packages whose version doesn't matter
  local package missing=()
  for package in "$@"; do installed "$package" >/dev/null || missing+=("$package"); done
  [[ ${#missing[@]} -gt 0 ]] || return 0
  try_apt_get install --no-install-recommends "${missing[@]}" || went_on || {
    apt_get update
    apt_get install --no-install-recommends "${missing[@]}"
  }
  say "installed ${missing[*]}"
}

hold() { # hold exactly these packages against upgrades; what this step held before and isn't among them is let go
  # Holds that somebody else had made are not noted: they stay when ours go.
  local package new=() kept=() old=() held
  # shellcheck disable=SC2046 # names are words
  set -- $(printf '%s\n' "$@" | sort -u)
  held=$(apt-mark showhold)
  mkdir -p "$STATE/holds"
  touch "$STATE/holds/$STEP"
  for package in "$@"; do
    grep -qxF "$package" <<<"$held" || new+=("$package")
  done
  while read -r package; do
    if [[ " $* " == *" $package "* ]]; then
      kept+=("$package")
    elif grep -qxF "$package" <<<"$held"; then
      old+=("$package")
    fi
  done <"$STATE/holds/$STEP"
  if [[ ${#new[@]} -gt 0 ]]; then
    # Noted first: who is cut off here has too many names in the note, which does no harm.
    printf '%s\n' "${new[@]}" >>"$STATE/holds/$STEP"
    patient apt-mark hold "${new[@]}" || explain "apt-mark hold"
    say "held ${new[*]}"
  fi
  if [[ ${#old[@]} -gt 0 ]]; then
    patient apt-mark unhold "${old[@]}" || explain "apt-mark unhold"
    say "no longer held: ${old[*]}"
  fi
  printf '%s\n' "${kept[@]}" "${new[@]}" | sed '/^$/d' | sort -u >"$STATE/holds/$STEP"
}

unhold_ours() { # take back the holds that this step made
  local ours=$STATE/holds/$STEP held
  [[ -s $ours ]] || return 0
  held=$(apt-mark showhold | grep -xFf "$ours" || true)
  if [[ $held ]]; then
    # shellcheck disable=SC2086 # package names are words
    patient apt-mark unhold $held || explain "apt-mark unhold"
    say "no longer held: $(tr '\n' ' ' <<<"$held")"
  fi
  rm "$ours"
}

pin() { # name, upstream version, patterns: nothing but builds of that version may be installed of these packages
  local name=$1 version=${2//./\\.}
  shift 2
  put "/etc/apt/preferences.d/inference-stack-$name" <<END
# Written by inference-stack.
Package: $*
Pin: version /^([0-9]+:)?${version}[-+~]/
Pin-Priority: 1001
END
}

members() { # patterns -> installed packages of these names and their versions
  dpkg-query -W -f '${db:Status-Status} ${Package} ${Version}\n' "$@" 2>/dev/null | sed -n 's/^installed //p' | sort -u
}

install_set() { # name of the set, upstream version, packages, packages (or package=version) of other versions, patterns of the family
  # Brings the packages and all that is installed of their family to builds of that version, in one go; what is left of
  # a version that was pinned before and has no build of the new one is removed. Sets SET to the packages to hold.
  local name=$1 version=$2 package have full earlier=$STATE/versions/$1 builds removed
  local -a names loose family rows changes=() moves=()
  read -ra names <<<"$3"
  read -ra loose <<<"$4"
  read -ra family <<<"$5"
  for package in "${names[@]}"; do
    have=$(installed "$package" || true)
    is_build "$have" "$version" && continue
    must_build_of "$package" "$version"
    changes+=("$package=$BUILD")
    moves+=("$package ${have:-not installed} -> $BUILD")
  done
  for package in "${loose[@]}"; do
    have=$(installed "${package%%=*}" || true)
    if [[ $package == *=* ]]; then
      is_build "$have" "${package#*=}" && continue
      must_build_of "${package%%=*}" "${package#*=}"
      changes+=("${package%%=*}=$BUILD")
      moves+=("${package%%=*} ${have:-not installed} -> $BUILD")
    elif [[ ! $have ]]; then
      changes+=("$package")
      moves+=("$package not installed -> the newest")
    fi
  done
  mapfile -t rows < <(members "${family[@]}")
  if [[ ${#rows[@]} -gt 0 ]]; then builds=$(apt-cache madison "${rows[@]%% *}"); fi
  for have in "${rows[@]}"; do
    package=${have%% *}
    have=${have#* }
    if [[ " ${UNWANTED-} " == *" $package "* ]]; then
      changes+=("$package-")
      moves+=("$package $have -> removed")
      continue
    fi
    if is_build "$have" "$version" || [[ " ${names[*]} ${loose[*]%%=*} " == *" $package "* ]]; then continue; fi
    if full=$(build_among "$package" "$version" <<<"$builds"); then
      changes+=("$package=$full")
      moves+=("$package $have -> $full")
    elif was_pinned "$have" "$earlier"; then
      changes+=("$package-")
      moves+=("$package $have -> removed")
    fi
  done
  pin "$name" "$version" "${family[@]}"
  mkdir -p "$STATE/versions"
  grep -qxF "$version" "$earlier" 2>/dev/null || echo "$version" >>"$earlier"
  if [[ ${#changes[@]} -gt 0 ]]; then
    removed=$(would_remove "${family[@]}" -- "${changes[@]}")
    [[ -z $removed ]] || fail "installing $name $version would remove other packages" "$removed" \
      "see why with \`apt-get -s install ${changes[*]}\` on the host, and remove or replace them by hand"
    try_install "${changes[@]}" || went_on || explain "installing $name $version"
    for package in "${moves[@]}"; do say "$package"; done
  fi
  SET=("${loose[@]%%=*}")
  while read -r package have; do
    if is_build "$have" "$version"; then SET+=("$package"); fi
  done < <(members "${family[@]}")
}

went_on() { # whether a failed installation was dealt with; the driver's step knows how
  return 1
}

try_install() { # what apt-get install is given; false where it fails
  try_apt_get install --no-install-recommends --allow-downgrades --allow-change-held-packages "$@"
}

build_among() { # package, upstream version; rows of apt-cache madison on standard input -> the full version
  local row version
  while IFS='|' read -r row version _; do
    version=${version// /}
    if [[ ${row// /} == "$1" ]] && is_build "$version" "$2"; then
      echo "$version"
      return
    fi
  done
  return 1
}

was_pinned() { # full version, file of upstream versions
  local version
  [[ -e $2 ]] || return 1
  while read -r version; do
    if is_build "$1" "$version"; then return; fi
  done <"$2"
  return 1
}

would_remove() { # patterns -- what apt-get install is given: packages that it would remove and that match no pattern
  local -a patterns=()
  local row package pattern out
  while [[ $1 != -- ]]; do
    patterns+=("$1")
    shift
  done
  shift
  try_install -s "$@" || explain "apt-get install $*"
  while read -r row package _; do
    [[ $row == Remv ]] || continue
    for pattern in "${patterns[@]}"; do
      # shellcheck disable=SC2053 # a pattern it is
      [[ $package == $pattern ]] && continue 2
    done
    out+="$package "
  done <"$APT_LOG"
  echo "${out-}"
}

not_unattended() { # name, patterns: leave these families out of unattended-upgrades, whose patterns are regular expressions
  local name=$1 pattern
  shift
  {
    echo "// Versions of these are pinned by inference-stack."
    echo "Unattended-Upgrade::Package-Blacklist {"
    for pattern in "$@"; do
      pattern=${pattern//./\\\\.}
      echo "    \"^${pattern//\*/.*}\$\";"
    done
    echo "};"
  } | put "/etc/apt/apt.conf.d/60inference-stack-$name"
}
