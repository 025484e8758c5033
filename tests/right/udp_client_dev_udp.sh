# Bash: /dev/udp; a line, a datagram.
exec 3<>"/dev/udp/127.0.0.1/$1"
while IFS= read -r sentence; do
  printf '%s\n' "$sentence" >&3
  if IFS= read -r -t 3 echo <&3; then echo "echo: $echo"; else echo "no echo"; fi
  [ "$sentence" = exit ] && break
done
