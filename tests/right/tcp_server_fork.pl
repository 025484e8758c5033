# Perl: IO::Socket::INET, a process for each client.
use strict;
use warnings;
use IO::Socket::INET;

$SIG{CHLD} = 'IGNORE';
my $listener = IO::Socket::INET->new(LocalAddr => '127.0.0.1', LocalPort => $ARGV[0],
  Listen => 5, ReuseAddr => 1) or die "cannot listen: $@\n";
while (1) {
  my $conn = $listener->accept or next;
  if (fork) {
    close $conn;
    next;
  }
  while (my $line = <$conn>) {
    print "heard: $line";
    print $conn $line;
    $conn->flush;
    $line =~ s/\s+$//;
    last if $line eq 'stop';
  }
  exit;
}
