/* A process for each client, as in UNP; lines are printed by stdio. */
#include <arpa/inet.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static void serve(int conn) {
  FILE *in = fdopen(conn, "r"), *out = fdopen(dup(conn), "w");
  char *line = NULL;
  size_t size = 0;
  ssize_t n;
  while ((n = getline(&line, &size, in)) > 0) {
    fwrite(line, 1, n, stdout);
    fflush(stdout);
    fwrite(line, 1, n, out);
    fflush(out);
    line[strcspn(line, "\r\n")] = 0;
    if (strcmp(line, "exit") == 0) break;
  }
  exit(0);
}

int main(int argc, char **argv) {
  struct sockaddr_in addr = {.sin_family = AF_INET, .sin_port = htons(atoi(argv[argc - 1]))};
  int one = 1, listener = socket(AF_INET, SOCK_STREAM, 0);
  signal(SIGCHLD, SIG_IGN);
  signal(SIGPIPE, SIG_IGN);
  setsockopt(listener, SOL_SOCKET, SO_REUSEADDR, &one, sizeof one);
  bind(listener, (struct sockaddr *)&addr, sizeof addr);
  listen(listener, 128);
  for (;;) {
    int conn = accept(listener, NULL, NULL);
    if (conn >= 0 && fork() == 0) serve(conn);
    close(conn);
  }
}
