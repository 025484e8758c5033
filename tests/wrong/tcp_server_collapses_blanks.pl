# Mistake: the words are split and joined, so that several blanks become one.
use strict;
use warnings;
use IO::Socket::INET;

$SIG{CHLD} = 'IGNORE';
my $listener = IO::Socket::INET->new(LocalAddr => '127.0.0.1', LocalPort => $ARGV[0],
  Listen => 5, ReuseAddr => 1) or die "cannot listen: $@\n";
while (1) {
  my $conn = $listener->accept or next;
  next if fork;
  while (my $line = <$conn>) {
    my $sentence = join ' ', split / +/, $line;
    print $sentence;
    print $conn $sentence;
    $conn->flush;
    last if $sentence eq "stop\n";
  }
  exit;
}
