/* Mistake: the whole buffer is sent, and not what is in it. */
#include <arpa/inet.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

int main(int argc, char **argv) {
  struct sockaddr_in addr = {.sin_family = AF_INET, .sin_port = htons(atoi(argv[argc - 1]))};
  int conn = socket(AF_INET, SOCK_STREAM, 0);
  inet_pton(AF_INET, "127.0.0.1", &addr.sin_addr);
  if (connect(conn, (struct sockaddr *)&addr, sizeof addr) < 0) return 1;
  char line[256] = "";
  while (fgets(line, sizeof line, stdin)) {
    write(conn, line, sizeof line);
    ssize_t n = read(conn, line, sizeof line);
    if (n <= 0) break;
    printf("%s", line);
    if (strcmp(line, "stop\n") == 0) break;
  }
}
