/* One client at a time; printf() without fflush(): a pipe would show nothing for a long time. */
#include <arpa/inet.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

int main(int argc, char **argv) {
  struct sockaddr_in addr = {.sin_family = AF_INET, .sin_port = htons(atoi(argv[argc - 1]))};
  int one = 1, listener = socket(AF_INET, SOCK_STREAM, 0);
  setsockopt(listener, SOL_SOCKET, SO_REUSEADDR, &one, sizeof one);
  bind(listener, (struct sockaddr *)&addr, sizeof addr);
  listen(listener, 5);
  for (;;) {
    int conn = accept(listener, NULL, NULL);
    char buffer[1025];
    ssize_t n;
    while ((n = read(conn, buffer, 1024)) > 0) {
      buffer[n] = 0;
      printf("Client: %s\n", buffer);
      if (write(conn, buffer, n) < 0) break;
      if (strncmp(buffer, "stop", 4) == 0 && (n == 4 || buffer[4] == '\n' || buffer[4] == '\r')) break;
    }
    close(conn);
  }
}
