#!/bin/bash
# A tool in a shell, over NATS, with nothing else installed: `bash examples/disk_service.sh 127.0.0.1 4222`
# It says what it is when it is asked for by name, and answers each call; bash speaks the NATS protocol itself.
LC_ALL=C
exec 3<>"/dev/tcp/$1/$2" || exit 1

about='{"type":"io.nats.micro.v1.info_response","name":"tool-disk","id":"'$$'","version":"1.0.0",
"description":"Tell how full the disk of this machine is.",
"metadata":{"parameters":"{\"type\":\"object\",\"properties\":{}}","effect":"pure"},
"endpoints":[{"name":"call","subject":"rpc.tool-disk.call"}]}'

answer() { printf 'PUB %s %d\r\n%s\r\n' "$1" "${#2}" "$2" >&3; }

printf 'CONNECT {"verbose":false,"headers":false}\r\n' >&3
printf 'SUB %s 1\r\nSUB %s disks 2\r\n' '$SRV.INFO.tool-disk' 'rpc.tool-disk.call' >&3

while read -r -u 3 verb subject _ reply size; do
  case "$verb" in
    PING*) printf 'PONG\r\n' >&3 ;;
    MSG)
      read -r -N "$((${size%$'\r'} + 2))" -u 3 _
      case "$subject" in
        rpc.*) answer "$reply" "$(df -hP / | tail -n 1)" ;;
        *) answer "$reply" "$about" ;;
      esac ;;
    -ERR*) echo "$verb $subject" >&2; exit 1 ;;
  esac
done
