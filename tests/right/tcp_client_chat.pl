# Perl: line by line, without a prompt.
use strict;
use warnings;
use IO::Socket::INET;

my $conn = IO::Socket::INET->new(PeerAddr => '127.0.0.1', PeerPort => $ARGV[0])
  or die "cannot connect: $!\n";
$conn->autoflush(1);
while (my $sentence = <STDIN>) {
  print $conn $sentence;
  my $echo = <$conn>;
  die "the server is gone\n" unless defined $echo;
  print "Echo: $echo";
  last if $sentence eq "exit\n";
}
