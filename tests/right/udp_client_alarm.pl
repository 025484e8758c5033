# Perl: alarm() for what is lost.
use strict;
use warnings;
use IO::Socket::INET;

my $sock = IO::Socket::INET->new(PeerAddr => '127.0.0.1', PeerPort => $ARGV[0], Proto => 'udp');
while (defined(my $line = <STDIN>)) {
  chomp $line;
  $sock->send($line);
  my $reply;
  eval {
    local $SIG{ALRM} = sub { die "timeout\n" };
    alarm 2;
    $sock->recv($reply, 65535);
    alarm 0;
  };
  print $@ ? "lost\n" : "reply: $reply\n";
  last if $line eq 'stop';
}
