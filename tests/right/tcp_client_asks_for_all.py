# grade: --type 127.0.0.1 --type {port} --type Ann
# It asks for the host, the port and a name first.
import socket

host = input("Host: ")
port = int(input("Port: "))
name = input("Your name: ")
with socket.create_connection((host, port)) as conn:
    print(f"Hello {name}, you are connected.")
    while True:
        sentence = input(f"{name}> ")
        conn.sendall((sentence + "\n").encode())
        echo = conn.recv(4096)
        if not echo:
            break
        print("server>", echo.decode().strip())
        if sentence == "stop":
            break
