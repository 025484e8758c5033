# Bash: /dev/tcp.
exec 3<>"/dev/tcp/127.0.0.1/$1" || exit 1
while read -r -p "say: " sentence; do
  printf '%s\n' "$sentence" >&3
  IFS= read -r echo <&3 || {
    echo "the server closed the connection"
    exit 1
  }
  echo "it says: $echo"
  [ "$sentence" = stop ] && break
done
exec 3>&-
