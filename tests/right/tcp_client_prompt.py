# The textbook's client, in a loop: input() with a prompt, no line ends, ends when the server closes.
import sys
from socket import AF_INET, SOCK_STREAM, socket

server_port = int(sys.argv[1])
client_socket = socket(AF_INET, SOCK_STREAM)
client_socket.connect(("localhost", server_port))
while True:
    sentence = input("Input a sentence: ")
    if not sentence:
        continue
    client_socket.send(sentence.encode())
    echo = client_socket.recv(1024)
    print("From Server:", echo.decode())
    if sentence == "exit":
        break
client_socket.close()
