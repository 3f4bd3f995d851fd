# SPDX-License-Identifier: Apache-2.0
"""The transport of ferry migrate: what TLS costs, and what compression gains, each beside its alternative in the same run."""

import statistics
import subprocess

LIMIT_S = 120
CIPHER = "aes-128-gcm"  # of TLS_AES_128_GCM_SHA256, the only one that wire/tls.c offers with a secret
RECORD = 16384


def cipher_rate():
    """MB/s of one core, as "openssl speed" has it: by the processor's time."""
    text = subprocess.run(["openssl", "speed", "-mr", "-seconds", "1", "-bytes", str(RECORD), "-evp", CIPHER],
                          check=True, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True,
                          timeout=LIMIT_S).stdout
    return next(float(line.split(":")[3]) for line in text.splitlines() if line.startswith("+F")) / 1e6


def tunnel_rates(program, mib, connections):
    """What bench-transport measures, MB/s."""
    text = subprocess.run([program, str(mib), str(connections)], check=True, stdout=subprocess.PIPE, text=True,
                          timeout=LIMIT_S).stdout
    return {line.split()[0]: float(line.split()[1]) for line in text.splitlines()}


def rates(program, mib, repetitions):
    """The medians of all of these, for 1 and 2 connections."""
    rounds = []
    for _ in range(repetitions + 1):
        entry = {"cipher": cipher_rate()}
        for connections in (1, 2):
            for name, value in tunnel_rates(program, mib, connections).items():
                entry[f"{name} {connections}"] = value
        rounds.append(entry)
    return {name: statistics.median(entry[name] for entry in rounds[1:]) for name in rounds[0]}
