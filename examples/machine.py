"""An agent whose tool is a shell script (`examples/disk_service.sh`): `ostinato up --agents examples/machine.py`."""

from ostinato import Agent, Services

machine = Agent("machine", "You look after a machine. Warn when a disk is nearly full.", tools=[Services("disk")])
