# Mistake: the connection is closed at the end of input, with echoes still to be sent.
import queue
import socket
import sys
import threading
import time


def serve(conn):
    echoes = queue.Queue()
    threading.Thread(target=send_all, args=(conn, echoes), daemon=True).start()
    while sentence := conn.recv(4096):
        print(sentence.decode(errors="replace"))
        echoes.put(sentence)
    conn.close()


def send_all(conn, echoes):
    time.sleep(0.3)
    while True:
        sentence = echoes.get()
        conn.sendall(sentence)
        if sentence.strip() in (b"stop", b"exit"):
            conn.shutdown(socket.SHUT_RDWR)


server = socket.create_server(("127.0.0.1", int(sys.argv[1])))
while True:
    conn, _ = server.accept()
    threading.Thread(target=serve, args=(conn,), daemon=True).start()
