# Bash: /dev/udp; a line, a datagram. dd reads a datagram at a time, as read takes single bytes.
exec 3<>"/dev/udp/127.0.0.1/$1"
while IFS= read -r sentence; do
  printf '%s\n' "$sentence" >&3
  echo=$(timeout 3 dd bs=65535 count=1 status=none <&3) && echo "echo: $echo" || echo "no echo"
  [ "$sentence" = exit ] && break
done
