# Perl: recv and send on one socket.
use strict;
use warnings;
use IO::Socket::INET;

my $sock = IO::Socket::INET->new(LocalPort => $ARGV[0], Proto => 'udp') or die "bind: $@\n";
while (1) {
  my $peer = $sock->recv(my $data, 65535);
  next unless defined $peer;
  print "datagram: $data\n";
  $sock->send($data, 0, $peer);
}
