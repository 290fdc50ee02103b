# Files that several processes of a test write lines to: what they are about to do, what was acknowledged, what they
# found wrong.
#
#   append($file, 'done 4711');      # one write, so lines of several processes do not mix
#   my @lines = lines_of($file);     # none when it is not there
package AidbJournal;

use strict;
use warnings;
use Exporter qw(import);

our @EXPORT = qw(append lines_of);

sub append {
	my ($file, $line) = @_;
	open my $out, '>>', $file or die "$file: $!";
	syswrite $out, "$line\n";
	return;
}

sub lines_of {
	my ($file) = @_;
	open my $in, '<', $file or return;
	chomp(my @lines = <$in>);
	return @lines;
}

1;
