#!/bin/sh
# What the compose file's trainer runs: trains the data sets named as arguments, if the repository holds no bundle yet.
set -eu

if [ -n "$(find "$LSTM_REPOSITORY" -mindepth 3 -maxdepth 3 -name manifest.json -print -quit)" ]; then
  echo "$LSTM_REPOSITORY holds models already: nothing to train"
  exit 0
fi
for dataset in "$@"; do
  python -m model train "$dataset" --repository "$LSTM_REPOSITORY"
done
