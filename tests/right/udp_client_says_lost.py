# A client that reports a lost datagram in place of sending it again, and hears its server only.
import socket
import sys

client = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
client.connect(("127.0.0.1", int(sys.argv[1])))
while True:
    try:
        sentence = input("> ").encode()
    except EOFError:
        break
    client.settimeout(1)
    client.send(sentence)
    try:
        while (echo := client.recv(65507)) != sentence:
            pass
        print(echo.decode())
    except TimeoutError:
        print("Request timed out")
    if sentence == b"stop":
        break
