# shellcheck shell=bash
# Sourced by tools/*-image: names, fingerprints, locks, labels, and the step that builds.
#
# An image is built again only when what decides its content has changed; a label keeps the fingerprint. What differs from
# build to build without a reason is kept out: all times are that of the last commit (SOURCE_DATE_EPOCH, when set, counts).
#
#   LAILA_IMAGE_TAG       the tag of everything that is built (dev): another one leaves other checkouts' images alone
#   LAILA_BUILD_OPTIONS   further options of `docker build`, such as --no-cache
#   LAILA_SOURCE_URL      where the source is published, for the label `source` (the remote origin, when that is https)

TAG=${LAILA_IMAGE_TAG:-dev}
export DOCKER_BUILDKIT=1
[[ -n ${SOURCE_DATE_EPOCH:-} ]] || SOURCE_DATE_EPOCH=$(git log -1 --format=%ct 2>/dev/null || date +%s)
export SOURCE_DATE_EPOCH

# label IMAGE NAME : empty when there is no such image, or no such label.
label() { docker image inspect -f "{{index .Config.Labels \"$2\"}}" "$1" 2>/dev/null || true; }
identity() { docker image inspect -f '{{.Id}}' "$1"; }

# packages FILE : the first word of each line that is no comment.
packages() { sed '/^#/d; s/ .*//' "$1"; }

# begin NAME : the image is laila-NAME; one program builds it at a time.
begin() {
  NAME=$1 IMAGE=laila-$1:$TAG MARK=dev.laila.$1
  mkdir -p .build
  exec 9>".build/$NAME-image.lock"
  flock 9
}

# made_from BASE PATH... : ends the tool when the image was made from exactly these.
made_from() {
  local base=$1
  shift
  sources=$({
    find "$@" tools/images.sh -type f ! -name '*.py[co]' ! -path '*/__pycache__/*' -print0 | sort -z | xargs -0 sha256sum
    identity "$base"
  } | sha256sum | cut -c1-16)
  [[ $(label "$IMAGE" "$MARK") != "$sources" ]] || { echo "$IMAGE"; exit; }
}

# with_packages BASE PACKAGE... : prints a base that has them, or BASE itself where the Dockerfile's apt can get them.
# The local base has its packages and no apt, so all of them are unpacked together into a base of the image's own.
with_packages() {
  local base=$1 own=laila-$NAME-base:$TAG recipe
  shift
  [[ $base == laila-base:* ]] || { echo "$base"; return; }
  recipe=$({ printf '%s\n' "$@"; cat tools/debian-image; } | sha256sum | cut -c1-16)
  if [[ $(label "$own" dev.laila.recipe) != "$recipe" ]]; then
    step "$NAME-base" "build $own" tools/debian-image "$own" "$recipe" "$@" || exit 3
    docker image prune -f --filter label=dev.laila.recipe >/dev/null
  fi
  echo "$own"
}

# Only a published address, and never one that carries a name or a password.
source_url() {
  local url=${LAILA_SOURCE_URL:-$(git config --get remote.origin.url 2>/dev/null || true)}
  [[ $url =~ ^https://[^@]+$ ]] && echo "${url%.git}"
}

# build BASE ARGUMENT... : `docker build`, with the labels that are known only now, and this machine's proxies.
build() {
  local base=$1 arguments=() options=() name url digest version
  shift
  for name in HTTP_PROXY HTTPS_PROXY NO_PROXY http_proxy https_proxy no_proxy; do
    [[ -z ${!name:-} ]] || arguments+=(--build-arg "$name")
  done
  version=$(sed -n 's/^version = "\(.*\)"/\1/p' pyproject.toml | head -n1)
  mark() { arguments+=(--label "org.opencontainers.image.$1=$2"); }
  mark version "$version"
  mark revision "$(git rev-parse HEAD 2>/dev/null || echo unknown)"
  mark created "$(date --utc --date "@$SOURCE_DATE_EPOCH" +%Y-%m-%dT%H:%M:%SZ)"
  url=$(source_url) && mark source "$url"
  digest=$(docker image inspect -f '{{range .RepoDigests}}{{println .}}{{end}}' "$base" | sed -n '1s/.*@//p')
  [[ -z $digest ]] || mark base.digest "$digest"
  read -r -a options <<<"${LAILA_BUILD_OPTIONS:-}"
  step "$NAME-image" "build $IMAGE" docker build --progress plain -t "$IMAGE" --build-arg "BASE_IMAGE=$base" \
    --build-arg SOURCE_DATE_EPOCH --label "$MARK=$sources" "${arguments[@]}" "${options[@]}" "$@" || exit 3
  # The image that had this name before is an orphan now; running containers keep theirs.
  docker image prune -f --filter "label=$MARK" >/dev/null
  echo "$IMAGE"
}
