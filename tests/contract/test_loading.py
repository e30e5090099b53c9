"""A server while its model loads, with real processes: it answers, refuses, and can be stopped."""

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest

from server.api.keys import NewKey  # type: ignore[attr-defined]
from server.api.rights import RIGHTS
