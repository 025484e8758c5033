# It prints what comes as bytes, and as text.
import socket
import sys

conn = socket.create_connection(("127.0.0.1", int(sys.argv[1])))
try:
    while True:
        sentence = input()
        conn.sendall(sentence.encode() or b"\n")
        reply = conn.recv(65536)
        if not reply:
            print("The server closed the connection.")
            break
        print(f"raw: {reply!r} text: {reply.decode()}")
        if sentence in ("stop", "exit"):
            break
except EOFError:
    print("bye")
conn.close()
