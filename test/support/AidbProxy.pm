# A TCP proxy on loopback before a server's Unix socket, or before another service, which spoils connections when it is told to:
#
#   my $proxy = AidbProxy->start($node);    # or ('127.0.0.1:8080')
#   $proxy->conninfo;            # host and port, to be used instead of the server's; $proxy->address
#   $proxy->set('delay', 50);    # every piece comes 50 ms late
#   $proxy->set('stall');        # nothing comes through, in neither direction; connections stay
#   $proxy->set('refuse');       # new connections are closed at once
#   $proxy->set('cut');          # connections that there are end with a reset
#   $proxy->set('truncate');     # the next answer of each ends in its middle, with a reset
#   $proxy->set('half');         # the next answer of each ends in its middle, and the server does not hear of it
#   $proxy->set('flip');         # a bit of the next long piece that a client sends is another
#   $proxy->set('pass');         # no more of that; what was stalled goes on
#
# It is a process of its own, which ends with the test.
package AidbProxy;

use strict;
use warnings;
use IO::Handle;
use IO::Select;
use IO::Socket::INET;
use IO::Socket::UNIX;
use POSIX qw(_exit);
use Socket qw(SOL_SOCKET SO_LINGER SHUT_WR);
use Time::HiRes qw(time);

use constant PIECE => 8192;

sub start {
	my ($class, $server) = @_;
	my $listener = IO::Socket::INET->new(Listen => 64, LocalAddr => '127.0.0.1', ReuseAddr => 1) or die "no socket: $!";
	pipe(my $orders, my $control) or die "no pipe: $!";
	my $path = ref $server ? $server->host . '/.s.PGSQL.' . $server->port : $server;
	my $pid = fork // die "no process: $!";
	if ($pid == 0) {
		close $control;
		eval { run($listener, $orders, $path) };
		warn "proxy: $@" if $@;
		_exit(0);
	}
	close $orders;
	$control->autoflush(1);
	return bless { port => $listener->sockport, control => $control, pid => $pid }, $class;
}

sub conninfo { return "host=127.0.0.1 port=$_[0]{port} dbname=postgres" }

sub address { return "127.0.0.1:$_[0]{port}" }

sub set {
	my ($self, $mode, $number) = @_;
	local $SIG{PIPE} = 'IGNORE';
	print { $self->{control} } "$mode " . ($number // 0) . "\n";
	return;
}

# ---- The process ----------------------------------------------------------------------------------------------------

# Connections: each end knows the other, and has pieces for it that are due at some time.
my ($mode, $number) = ('pass', 0);
my %end;    # by file number: socket, other, queue, is_server, spoil
my $select;

sub drop {
	my ($one) = @_;
	for my $each (grep { defined } $one, $one->{other}) {
		next if $each->{dropped}++;
		delete $end{ fileno $each->{socket} };
		$select->remove($each->{socket});
		setsockopt $each->{socket}, SOL_SOCKET, SO_LINGER, pack('ii', 1, 0); # a reset, not an end
		close $each->{socket};
	}
	return;
}

sub accept_one {
	my ($listener, $path) = @_;
	my $client = $listener->accept or return;
	my $server = $mode eq 'refuse' ? undef : $path =~ m{^/} ? IO::Socket::UNIX->new(Peer => $path) : IO::Socket::INET->new(PeerAddr => $path);
	if (!$server) {
		setsockopt $client, SOL_SOCKET, SO_LINGER, pack('ii', 1, 0);
		close $client;
		return;
	}
	my ($a, $b) = ({ socket => $client, queue => [] }, { socket => $server, queue => [], is_server => 1 });
	($a->{other}, $b->{other}) = ($b, $a);
	$end{ fileno $_->{socket} } = $_ for $a, $b;
	$select->add($_->{socket}) for $a, $b;
	return;
}

# Sends it to the other end as a whole: what it does not take at once is waited for.
sub send_piece {
	my ($from, $piece) = @_;
	my $to = $from->{other};
	while (length $piece) {
		my $sent = syswrite $to->{socket}, $piece;
		return drop($from) if !defined $sent;
		substr($piece, 0, $sent) = '';
	}
	return;
}

sub take {
	my ($from) = @_;
	my $size = sysread $from->{socket}, my $piece, PIECE;
	if (!$size) { # an end is told at once
		return drop($from);
	}
	if ($from->{is_server} && ($from->{spoil} // '') ne '') {
		my $spoil = $from->{spoil};
		$from->{spoil} = '';
		send_piece($from, substr($piece, 0, int(length($piece) / 2)));
		return if $from->{dropped};
		return drop($from) if $spoil eq 'truncate';
		shutdown $from->{other}{socket}, SHUT_WR;
		$from->{halved} = 1;
		return;
	}
	return if $from->{halved};
	if ($mode eq 'flip' && !$from->{is_server} && $size == PIECE) {
		substr($piece, PIECE / 2, 1) ^= "\1";
		$mode = 'pass';
	}
	push @{ $from->{queue} }, [ time + ($mode eq 'delay' ? $number / 1000 : 0), $piece ];
	return;
}

# What is due goes out; until when the next piece is.
sub send_due {
	my $next = time + 1;
	for my $from (my @ends = values %end) { # a copy: some may go
		while (!$from->{dropped} && @{ $from->{queue} } && $from->{queue}[0][0] <= time) {
			send_piece($from, (shift @{ $from->{queue} })->[1]);
		}
		$next = $from->{queue}[0][0] if !$from->{dropped} && @{ $from->{queue} } && $from->{queue}[0][0] < $next;
	}
	return $next;
}

# False: the test has ended.
sub obey {
	my ($orders) = @_;
	my $size = sysread $orders, my $text, 4096;
	return 0 if !$size;
	for my $line (split /\n/, $text) {
		($mode, $number) = split / /, $line;
		for my $one (my @ends = values %end) {
			drop($one) if $mode eq 'cut' && !$one->{dropped};
			$one->{spoil} = $mode if $mode eq 'truncate' || $mode eq 'half';
		}
	}
	return 1;
}

sub run {
	my ($listener, $orders, $path) = @_;
	local $SIG{PIPE} = 'IGNORE';
	local $SIG{TERM} = 'DEFAULT';
	$select = IO::Select->new($listener, $orders);
	while (1) {
		my $stalled = $mode eq 'stall';
		my $next = $stalled ? time + 1 : send_due();
		my $wait = $next - time;
		my @ready = $stalled ? IO::Select->new($orders)->can_read(1) : $select->can_read($wait > 0 ? $wait : 0);
		for my $socket (@ready) {
			if ($socket == $orders) {
				return if !obey($orders);
			} elsif ($socket == $listener) {
				accept_one($listener, $path);
			} elsif (defined fileno $socket && $end{ fileno $socket }) {
				take($end{ fileno $socket });
			}
		}
	}
	return;
}

1;
