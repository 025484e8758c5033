# Mistake: the echo is received, and not printed.
use strict;
use warnings;
use IO::Socket::INET;

my $sock = IO::Socket::INET->new(PeerAddr => '127.0.0.1', PeerPort => $ARGV[0], Proto => 'udp');
while (defined(my $line = <STDIN>)) {
  chomp $line;
  $sock->send($line);
  $sock->recv(my $reply, 65535);
  last if $line eq 'stop';
}
