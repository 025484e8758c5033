/* fgets(), write(), read(), printf(), as in UNP's str_cli(). */
#include <arpa/inet.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

int main(int argc, char **argv) {
  struct sockaddr_in addr = {.sin_family = AF_INET, .sin_port = htons(atoi(argv[argc - 1]))};
  int conn = socket(AF_INET, SOCK_STREAM, 0);
  inet_pton(AF_INET, "127.0.0.1", &addr.sin_addr);
  if (connect(conn, (struct sockaddr *)&addr, sizeof addr) < 0) {
    perror("connect");
    return 1;
  }
  char line[4096], echo[4097];
  while (printf("? "), fgets(line, sizeof line, stdin)) {
    size_t length = strlen(line), got = 0;
    if (write(conn, line, length) < 0) break;
    while (got < length) {
      ssize_t n = read(conn, echo + got, length - got);
      if (n <= 0) {
        printf("the server terminated prematurely\n");
        return 1;
      }
      got += n;
    }
    echo[got] = 0;
    printf("echo: %s", echo);
    if (strcmp(line, "stop\n") == 0) break;
  }
  return 0;
}
