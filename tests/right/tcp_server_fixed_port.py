# grade: --port 23817
# The textbook's server: the port stands in the code, SO_REUSEADDR is not set.
from socket import AF_INET, SOCK_STREAM, socket

serverPort = 23817
serverSocket = socket(AF_INET, SOCK_STREAM)
serverSocket.bind(("", serverPort))
serverSocket.listen(1)
print("The server is ready to receive")
while True:
    connectionSocket, addr = serverSocket.accept()
    while True:
        sentence = connectionSocket.recv(1024).decode()
        if sentence == "":
            break
        print(sentence)
        connectionSocket.send(sentence.encode())
        if sentence.strip() == "stop":
            break
    connectionSocket.close()
