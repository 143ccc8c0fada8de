# shellcheck shell=bash
# An apt repository of others, trusted by the fingerprint of its key.

repository() { # one repository: nothing is put in place before key and lists were fetched and verified
  local name=$1 file key fingerprint scratch of=REPO_$1
  file=/etc/apt/sources.list.d/inference-stack-${name//_/-}.sources
  fingerprint=$(for_os "${of}_KEY")
  # Named by its key: apt wants one file where several entries are of one mirror.
  key=/etc/apt/keyrings/inference-stack-$fingerprint.asc
  KEYS+=" $key"
  if [[ -e $key ]] && [[ $(fingerprints "$key") == "$fingerprint" ]] && cmp -s "$file" <(source_of "$of" "$key"); then
    return
  fi
  scratch=$(mktemp -d)
  fetch_key "$(filled "$(for_os "${of}_KEY_URL")")" "$fingerprint" "$scratch" "$name"
  mkdir -p "$scratch/lists/partial"
  chmod 755 "$scratch"
  source_of "$of" "$scratch/key.asc" >"$scratch/new.sources"
  mkdir -p "$STATE"
  try_apt_get update -o "Dir::Etc::sourcelist=$scratch/new.sources" -o Dir::Etc::sourceparts=/dev/null \
    -o "Dir::State::lists=$scratch/lists" || explain "reading the repository $name"
  put "$key" <"$scratch/key.asc"
  source_of "$of" "$key" | put "$file"
  rm -rf "$scratch"
  if ! try_apt_get update; then
    rm -f "$file"
    explain "apt-get update with the repository $name"
  fi
}

source_of() { # settings' prefix, key file -> the entry for apt
  local suite components
  suite=$(filled "$(for_os "$1_SUITE")")
  components=$(for_os "$1_COMPONENTS")
  echo "Types: deb"
  echo "URIs: $(filled "$(for_os "$1_URL")")"
  echo "Suites: $suite"
  [[ -z $components ]] || echo "Components: $components"
  echo "Signed-By: $2"
}

filled() { # {os} and the like -> this host's
  local arch=x86_64
  # NVIDIA calls servers with ARM processors so.
  [[ $(uname -m) == aarch64 ]] && arch=sbsa
  local out=$1
  out=${out//'{os}'/$OS_ID${OS_VERSION//./}}
  out=${out//'{id}'/$OS_ID}
  out=${out//'{codename}'/$OS_CODENAME}
  out=${out//'{arch}'/$arch}
  echo "${out//'{debarch}'/$(dpkg --print-architecture)}"
}

fetch_key() { # URL, fingerprint, folder, repository: key.asc in the folder holds that key and no other
  local home=$3/gpg
  curl -fsSL --connect-timeout 15 --max-time 60 --retry 2 -o "$3/fetched" "$1" 2>"$3/why" ||
    fail "the key of the repository $4 can't be fetched" "$(tail -n 1 "$3/why") ($1)" \
      "check the network, or name a mirror with \`key_url\`; nothing was changed"
  mkdir -m 700 "$home"
  gpg -q --batch --homedir "$home" --import "$3/fetched" 2>/dev/null || true
  gpg -q --batch --homedir "$home" --armor --export "$2" >"$3/key.asc" 2>/dev/null || true
  gpgconf --homedir "$home" --kill all 2>/dev/null || true
  [[ $(fingerprints "$3/key.asc") == "$2" ]] || fail "the key of the repository $4 is another one" \
    "$1 has $(fingerprints "$3/fetched" | tr '\n' ' '), not $2" "find out who changed it before you trust it"
}

fingerprints() { # of primary keys in a file
  gpg -q --batch --with-colons --show-keys "$1" 2>/dev/null | awk -F: '$1 == "pub" {p = 1} $1 == "fpr" && p {print $10; p = 0}'
}
