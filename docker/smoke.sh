#!/usr/bin/env bash
# Builds the images, runs the compose stack and each image on its own, and checks that they do what they should. One line
# a check; exits 1 if any failed. Needs Docker with compose, bash and curl; leaves nothing behind but the images.
#
#   docker/smoke.sh
#
#   SKIP_BUILD=1        take the images lstm-serve:onnx, :torch and :trainer as they are
#   DOCKER_BUILD_ARGS   more arguments of `docker build`, such as --network=host or --build-context wheels=FOLDER
#   COMPOSE_FILE        docker-compose.yml and files that override it, as compose itself reads it
#   PROMETHEUS_IMAGE, GRAFANA_IMAGE, SERVICE_PORT, PROMETHEUS_PORT, GRAFANA_PORT   as in docker-compose.yml
set -euo pipefail
cd "$(dirname "$0")/.."

export SERVICE_PORT=${SERVICE_PORT:-18000} PROMETHEUS_PORT=${PROMETHEUS_PORT:-19090} GRAFANA_PORT=${GRAFANA_PORT:-13000}
export COMPOSE_PROJECT_NAME=lstm-smoke-$$ TARGET=onnx
readonly ONNX_LIMIT_MB=400 STOP_LIMIT_S=40
client=$(cat docker/smoke_client.py)
work=$(mktemp -d)
failures=0

clean_up() {
  docker rm --force --volumes "$COMPOSE_PROJECT_NAME-alone" >/dev/null 2>&1 || true
  docker compose down --volumes --remove-orphans >/dev/null 2>&1 || true
  rm -rf "$work"
}
trap clean_up EXIT
trap 'exit 130' INT TERM

now_ms() {
  local now=${EPOCHREALTIME:-$SECONDS.000000}
  now=${now/,/.}
  echo $((${now%.*} * 1000 + 10#${now#*.} / 1000))
}

# check NAME COMMAND...: one line; the last line that the command printed tells the details, a failure tells them all.
check() {
  local name=$1 started log=$work/check.log
  shift
  started=$(now_ms)
  if "$@" >"$log" 2>&1; then
    printf 'ok    %-58s %6d ms  %s\n' "$name" "$(($(now_ms) - started))" "$(tail -n 1 "$log")"
  else
    failures=$((failures + 1))
    printf 'FAIL  %-58s %6d ms\n' "$name" "$(($(now_ms) - started))"
    tail -n 40 "$log" | sed 's/^/        /'
  fi
}
skip() { printf 'skip  %-58s            %s\n' "$1" "$2"; }

# --- what the checks do: every step by hand in an && chain, since bash ignores `set -e` inside a condition -------------

build() {
  # shellcheck disable=SC2086  # several arguments in one variable
  docker build ${DOCKER_BUILD_ARGS:-} --target "$1" --tag "lstm-serve:$1" . && image_size "$1"
}
image_size() { docker image inspect --format '{{.Size}}' "lstm-serve:$1" | awk '{printf "%.0f MB\n", $1 / 1e6}'; }
onnx_is_small() { [ "$(docker image inspect --format '{{.Size}}' lstm-serve:onnx)" -le $((ONNX_LIMIT_MB * 1000000)) ]; }
inside() { docker run --rm --interactive --network none --entrypoint "$2" "lstm-serve:$1" "${@:3}"; }
holds_no_torch() { inside onnx python -c 'import importlib.util as u; assert u.find_spec("torch") is None, "torch is there"'; }
lists_its_packages() {
  inside "$1" python -c 'import json
from importlib.metadata import distributions
listed = {one["name"] for one in json.load(open("/opt/venv/sbom.cdx.json"))["components"]}
held = {one.name for one in distributions(path=["/opt/venv/lib/python3.11/site-packages"])}
assert held == listed, held ^ listed
print(len(held), "packages")'
}
holds_no_compiler() { inside "$1" sh -c '! command -v gcc cc c++ make ld'; }
default_target_is_onnx() {
  # shellcheck disable=SC2086
  docker build ${DOCKER_BUILD_ARGS:-} --quiet . >"$work/default" && [ "$(cat "$work/default")" = \
    "$(docker image inspect --format '{{.Id}}' lstm-serve:onnx)" ]
}

promtool() {
  docker compose run --rm --no-deps --no-TTY --volume "$PWD:/project:ro" --workdir /project --entrypoint promtool \
    prometheus "$@"
}

container() { docker compose ps --all --quiet "$1"; }
state() { docker inspect --format "{{.State.$2}}" "$1"; }
healthy() {
  for _ in $(seq 120); do
    [ "$(state "$1" Health.Status)" = healthy ] && return
    [ "$(state "$1" Status)" = running ] || break
    sleep 0.5
  done
  docker logs --tail 30 "$1"
  return 1
}
exits_at_sigterm() {
  docker stop --time "$STOP_LIMIT_S" "$1" && [ "$(state "$1" ExitCode)" = 0 ] && echo "exit 0" && return
  docker logs --tail 30 "$1"
  echo "exit $(state "$1" ExitCode)"
  return 1
}
is_unprivileged() {
  docker exec "$1" sh -c '
    grep -qx "CapEff:[[:space:]]*0*" /proc/1/status && grep -qx "NoNewPrivs:[[:space:]]*1" /proc/1/status || exit 1
    [ "$(id -u)" != 0 ] || exit 1
    if touch /probe 2>/dev/null; then exit 1; fi
    echo "uid $(id -u), no capability, read-only root"'
}

trained() {
  docker compose up --detach --no-build --quiet-pull trainer service prometheus && [ "$(state "$(container trainer)" ExitCode)" = 0 ] &&
    docker logs "$(container trainer)" | tail -n 1
}
trainer_leaves_models_alone() { docker compose run --rm --no-deps --no-TTY trainer | grep 'nothing to train'; }
cases() {
  inside trainer python -I -c "$client" cases >"$work/cases.json" &&
    inside onnx python -I -c "$client" request <"$work/cases.json" >"$work/request.json" && wc -c <"$work/cases.json"
}
answers_from_outside() {
  curl --silent --show-error --fail --data @"$work/request.json" --header 'Content-Type: application/json' \
    "http://127.0.0.1:$SERVICE_PORT/v1/predict" >"$work/answer.json" && head -c 100 "$work/answer.json"
}
predicts() { # predicts CONTAINER BACKEND: the right labels; the second time also the probabilities of the first
  docker exec --interactive "$1" python -I -c "$client" predict "$2" <"$work/cases.json" >"$work/out.json" 2>"$work/summary" ||
    { cat "$work/summary"; return 1; }
  mv "$work/out.json" "$work/cases.json" && cat "$work/summary"
}
prometheus_has() { docker exec "$(container service)" python -I -c "$client" wait-for http://prometheus:9090 "$1"; }
panels_answer() {
  docker exec --interactive "$(container service)" python -I -c "$client" panels http://prometheus:9090 \
    <docker/grafana/dashboards/lstm-serve.json
}
alone() { # alone TARGET [ENVIRONMENT...]: the image without compose, as locked down as can be
  docker rm --force --volumes "$COMPOSE_PROJECT_NAME-alone" >/dev/null 2>&1 || true
  docker run --detach --name "$COMPOSE_PROJECT_NAME-alone" --read-only --cap-drop ALL --network none --tmpfs /tmp \
    --security-opt no-new-privileges --user 65534:65534 --memory 2g --pids-limit 512 \
    --volume "${COMPOSE_PROJECT_NAME}_bundles:/bundles:ro" "${@:2}" "lstm-serve:$1" >/dev/null && healthy "$COMPOSE_PROJECT_NAME-alone"
}
grafana_shows() {
  docker compose up --detach --no-build grafana && healthy "$(container grafana)" &&
    curl --silent --fail "http://127.0.0.1:$GRAFANA_PORT/api/dashboards/uid/lstm-serve" | grep -o '"title":"lstm-serve"' &&
    curl --silent --fail --user "admin:${GRAFANA_ADMIN_PASSWORD:-admin}" \
      "http://127.0.0.1:$GRAFANA_PORT/api/datasources/uid/prometheus/health" | grep -o '"status":"OK"'
}

# --- images -----------------------------------------------------------------------------------------------------------

for target in onnx torch trainer; do
  if [ "${SKIP_BUILD:-}" = 1 ]; then check "size of $target" image_size $target; else check "build $target" build $target; fi
done
[ "${SKIP_BUILD:-}" = 1 ] || check "the default target is onnx" default_target_is_onnx
check "onnx is at most $ONNX_LIMIT_MB MB" onnx_is_small
check "onnx holds no torch" holds_no_torch
for target in onnx torch trainer; do check "$target lists what it holds" lists_its_packages $target; done
for target in onnx torch trainer; do check "$target holds no compiler" holds_no_compiler $target; done

# --- the stack --------------------------------------------------------------------------------------------------------

check "Prometheus takes its configuration" promtool check config docker/prometheus.yml
check "each alert fires on its case" promtool test rules tests/docker/alerts.test.yml
check "compose up: the trainer fills the volume, exit 0" trained
check "the service is healthy" healthy "$(container service)"
check "Prometheus is healthy" healthy "$(container prometheus)"
check "the trainer leaves a filled volume alone" trainer_leaves_models_alone
for service in service prometheus; do check "$service is unprivileged" is_unprivileged "$(container $service)"; done
check "real test sequences, from the trainer's image" cases
check "POST /v1/predict through the published port" answers_from_outside
check "the service gives the right labels (onnx)" predicts "$(container service)" onnx
check "lstm_requests_total arrives in Prometheus" prometheus_has 'sum(lstm_requests_total{code="200"}) > 0'
check "lstm_predictions_total counts every label" prometheus_has 'count(count by (label) (lstm_predictions_total)) >= 9'
check "rates arrive in Prometheus" prometheus_has 'sum(rate(lstm_predictions_total[1m])) >= 0'
check "the dashboard's queries work" panels_answer
check "no alert fires" prometheus_has 'absent(ALERTS{alertstate="firing"})'
if docker image inspect "$(docker compose config --images grafana | grep grafana)" >/dev/null 2>&1 ||
  docker compose pull --quiet grafana >/dev/null 2>&1; then
  check "Grafana shows the dashboard" grafana_shows
  check "grafana is unprivileged" is_unprivileged "$(container grafana)"
else
  skip "Grafana shows the dashboard" "its image is not here and cannot be pulled"
fi
check "SIGTERM ends the service" exits_at_sigterm "$(container service)"

# --- the images alone: another user, no network, no capability, read-only root -----------------------------------------

check "onnx runs locked down" alone onnx
check "onnx is unprivileged" is_unprivileged "$COMPOSE_PROJECT_NAME-alone"
check "onnx predicts without a network" predicts "$COMPOSE_PROJECT_NAME-alone" onnx
check "SIGTERM ends onnx" exits_at_sigterm "$COMPOSE_PROJECT_NAME-alone"
check "torch runs locked down, LSTM_BACKEND=torchscript" alone torch --env LSTM_BACKEND=torchscript
check "torchscript gives onnx's probabilities within 1e-5" predicts "$COMPOSE_PROJECT_NAME-alone" torchscript
check "SIGTERM ends torch" exits_at_sigterm "$COMPOSE_PROJECT_NAME-alone"

[ "$failures" = 0 ] || { echo "$failures checks FAILED"; exit 1; }
echo "all checks passed"
