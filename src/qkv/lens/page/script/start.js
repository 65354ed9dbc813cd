// What a page that is a file does once it is read.

begin().catch(broken);
