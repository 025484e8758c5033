/* Mistake: of a socket that does not block, what send() did not take is left out. */
#include <arpa/inet.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static void serve(int conn) {
  char buffer[65537];
  int size = 65536;
  ssize_t n;
  struct pollfd readable = {.fd = conn, .events = POLLIN};
  setsockopt(conn, SOL_SOCKET, SO_SNDBUF, &size, sizeof size);
  fcntl(conn, F_SETFL, O_NONBLOCK);
  while (poll(&readable, 1, -1) > 0 && (n = recv(conn, buffer, 65536, 0)) > 0) {
    buffer[n] = 0;
    if (n < 1000) printf("%s\n", buffer);
    send(conn, buffer, n, MSG_NOSIGNAL);
    if (strncmp(buffer, "stop", 4) == 0 && n <= 6) break;
  }
  exit(0);
}

int main(int argc, char **argv) {
  struct sockaddr_in addr = {.sin_family = AF_INET, .sin_port = htons(atoi(argv[argc - 1]))};
  int one = 1, listener = socket(AF_INET, SOCK_STREAM, 0);
  signal(SIGCHLD, SIG_IGN);
  setsockopt(listener, SOL_SOCKET, SO_REUSEADDR, &one, sizeof one);
  bind(listener, (struct sockaddr *)&addr, sizeof addr);
  listen(listener, 5);
  for (;;) {
    int conn = accept(listener, NULL, NULL);
    if (fork() == 0) serve(conn);
    close(conn);
  }
}
