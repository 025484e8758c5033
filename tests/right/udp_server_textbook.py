# The textbook's server, without its capital letters.
import sys
from socket import AF_INET, SOCK_DGRAM, socket

server_socket = socket(AF_INET, SOCK_DGRAM)
server_socket.bind(("", int(sys.argv[1])))
print("The server is ready to receive")
while True:
    message, client_address = server_socket.recvfrom(2048)
    print(message.decode())
    server_socket.sendto(message.decode().encode(), client_address)
