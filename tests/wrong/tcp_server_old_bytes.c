/* Mistake: the buffer is not ended where read() ended: a short sentence brings the rest of a long one. */
#include <arpa/inet.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static void serve(int conn) {
  char buffer[4096] = "";
  while (read(conn, buffer, sizeof buffer - 1) > 0) {
    printf("%s\n", buffer);
    write(conn, buffer, strlen(buffer));
    if (strncmp(buffer, "stop\n", 5) == 0) break;
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
