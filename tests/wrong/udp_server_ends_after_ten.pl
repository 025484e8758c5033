# Mistake: ten datagrams are enough for it.
use strict;
use warnings;
use IO::Socket::INET;

my $sock = IO::Socket::INET->new(LocalPort => $ARGV[0], Proto => 'udp') or die "bind: $@\n";
for (1 .. 10) {
  $sock->recv(my $data, 65535);
  print "$data\n";
  $sock->send($data);
}
