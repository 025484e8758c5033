/* A line, a datagram with its line end; SO_RCVTIMEO reports what is lost. */
#include <arpa/inet.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/time.h>
#include <unistd.h>

int main(int argc, char **argv) {
  struct sockaddr_in addr = {.sin_family = AF_INET, .sin_port = htons(atoi(argv[argc - 1]))};
  struct timeval timeout = {.tv_sec = 2};
  int sock = socket(AF_INET, SOCK_DGRAM, 0);
  inet_pton(AF_INET, "127.0.0.1", &addr.sin_addr);
  setsockopt(sock, SOL_SOCKET, SO_RCVTIMEO, &timeout, sizeof timeout);
  char line[8192], reply[8192];
  while (fgets(line, sizeof line, stdin)) {
    sendto(sock, line, strlen(line), 0, (struct sockaddr *)&addr, sizeof addr);
    ssize_t n = recvfrom(sock, reply, sizeof reply, 0, NULL, NULL);
    if (n < 0) printf("no answer in 2 seconds\n");
    else printf("%.*s", (int)n, reply);
    if (strcmp(line, "exit\n") == 0) break;
  }
  return 0;
}
