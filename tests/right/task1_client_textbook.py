# Task 1: the textbook's client, without the echo.
from socket import *
import sys

serverName = "localhost"
clientSocket = socket(AF_INET, SOCK_STREAM)
clientSocket.connect((serverName, int(sys.argv[1])))
sentence = input("Input sentence:")
clientSocket.send(sentence.encode())
clientSocket.close()
