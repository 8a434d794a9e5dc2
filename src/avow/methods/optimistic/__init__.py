"""The method optimistic: an exact run that anybody whom the caller lets can run again, and a bond that a proof of one wrong value burns."""
