/* recvfrom() and sendto(), as in UNP's dg_echo(). */
#include <arpa/inet.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

int main(int argc, char **argv) {
  struct sockaddr_in addr = {.sin_family = AF_INET, .sin_port = htons(atoi(argv[argc - 1]))}, peer;
  int sock = socket(AF_INET, SOCK_DGRAM, 0);
  bind(sock, (struct sockaddr *)&addr, sizeof addr);
  static char data[65536];
  for (;;) {
    socklen_t size = sizeof peer;
    ssize_t n = recvfrom(sock, data, sizeof data, 0, (struct sockaddr *)&peer, &size);
    if (n < 0) continue;
    printf("%.*s\n", (int)n, data);
    sendto(sock, data, n, 0, (struct sockaddr *)&peer, size);
  }
}
